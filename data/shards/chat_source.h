#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/shards/batch_source.h"
#include "data/shards/sample_source.h"
#include "data/tokenizer/chat_template.h"

namespace ashlar {

/// One conversation as tokens.
struct ChatExample {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> answer;  ///< of each token: 1 if the assistant writes it
};

/// A conversation in the words of `format`. The text up to an answer is encoded apart from the
/// answer, as it is when the model is asked. The token that ends an answer belongs to it.
ChatExample encode_chat(std::span<const ChatMessage> messages, const ChatFormat& format,
                        const Tokenizer& tokenizer);

/// The conversations of a .jsonl (also .gz, .zst), in order: a line is an object with "messages", a
/// list of {"role", "content"}; other keys are not looked at. Throws Error(kData) "file:line: …"
/// for a line that is not, an unknown role, an order that the format cannot say, an empty answer,
/// and a conversation without any.
std::vector<ChatExample> read_chats(const std::filesystem::path& path, const ChatFormat& format,
                                    const Tokenizer& tokenizer);

/// Conversations as training samples, all held in memory. Sample k is a pure function of
/// (conversations, options, context, k).
class ChatSource final : public SampleSource {
 public:
  enum class TooLong { kCut, kSkip };  ///< of a conversation longer than a sample
  struct Options {
    uint64_t seed = 0;         ///< of the order
    bool shuffled = true;      ///< another order each epoch; else as in the file
    bool answers_only = true;  ///< only answers carry weight; else every token
    bool pack = false;         ///< as many conversations as fit, one after the other
    TooLong too_long = TooLong::kCut;
    int32_t eos = 0;  ///< start marker, and what fills up samples
    /// A decoder's conversations begin with EOS, unless the format writes it; a Block Transformer
    /// puts a block of EOS in front by itself, and cannot pack.
    bool marker = true;
  };
  /// What became of the conversations.
  struct Counts {
    int64_t conversations = 0;  ///< in samples
    int64_t cut = 0;            ///< too long, cut at the end
    int64_t left_out = 0;       ///< too long, or without a weighted target after cutting
    int64_t tokens = 0;         ///< in samples
  };

  /// Throws Error(kRequest) naming `where` when no conversation is left.
  ChatSource(std::vector<ChatExample> examples, int64_t context, const Options& options,
             const std::string& where);

  using SampleSource::batch;
  int64_t context() const override { return context_; }
  int64_t windows() const override { return static_cast<int64_t>(first_.size()) - 1; }
  Batch batch(std::span<const int64_t> samples) const override;
  const Counts& counts() const { return counts_; }

 private:
  void prepare(std::vector<ChatExample> examples);
  static int64_t rows_of(const ChatExample& example);  // of a sample
  void pack();

  int64_t context_;
  Options options_;
  Counts counts_;
  std::vector<ChatExample> examples_;  // with the start marker, cut to fit
  std::vector<size_t> first_;          // sample s holds examples [first_[s], first_[s + 1])
  Permutation order_{1, 0};
};

}  // namespace ashlar
