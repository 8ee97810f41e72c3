#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/tasks/draws.h"
#include "data/tasks/generator.h"
#include "data/tasks/options.h"

namespace ashlar {

struct TextPart {
  std::string text;
  bool answer = false;
};

/// An example of text before it becomes tokens.
struct TextExample {
  std::string context;             ///< all that comes before the question
  std::vector<TextPart> question;  ///< the question, then answers and what stands between them
};

/// Encodes context and parts each on their own, so that the tokens of the context do not depend on
/// the question and answers begin at a token. Parts continue the text: no vocabulary puts a space
/// in front of them.
TaskExample encode_example(const Tokenizer& tokenizer, const TextExample& text);

/// A task of text whose haystack has as many units as fit its length.
class TextTask : public TaskGenerator {
 public:
  explicit TextTask(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  TaskExample example(uint64_t index) const override;
  int64_t vocab_size() const override { return tokenizer_.vocab_size(); }
  int64_t max_tokens() const override { return length_; }
  Node settings() const override { return settings_; }

 protected:
  /// Example `index` with `units` units of haystack: a pure function of both. More units give more
  /// tokens.
  virtual TextExample build(uint64_t index, int64_t units) const = 0;
  /// Fewest and most units that build() takes.
  virtual int64_t least_units() const { return 0; }
  virtual int64_t most_units() const { return kMostTaskTokens; }

  /// Reads `length` (tokens of context, question and answers) and `seed`.
  void read_common(TaskOptions& options);
  /// Ends reading; tries one example, so that a length that is too short is known at once.
  void finish(TaskOptions& options);

  const Tokenizer& tokenizer_;
  int64_t length_ = 0;
  uint64_t seed_ = 0;

 private:
  Node settings_;
};

/// The repeated haystack's unit.
extern const char* const kNoise;
/// `items` in order at random places among `hay`, `between` behind each of both.
std::string hide_in(const std::vector<std::string>& items, const std::vector<std::string>& hay,
                    const char* between, Draws& draws);

/// "a", "a and b", "a, b, and c", with a space in front: the list's items are the answers.
std::vector<TextPart> answer_list(const std::vector<std::string>& items);

}  // namespace ashlar
