#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// One example of a generated task.
struct TaskExample {
  std::vector<int32_t> tokens;
  /// Per token: 1 where it is an answer, to be predicted from the tokens before it. The first token
  /// is never one.
  std::vector<uint8_t> answer;
  /// Tokens before the first query: what a cache may forget from before it knows the question.
  int64_t context = 0;
};

/// A task whose examples are made from a seed, for training and for scoring alike. Immutable: one
/// object serves any number of threads.
class TaskGenerator {
 public:
  virtual ~TaskGenerator();

  /// A pure function of (settings, seed, index).
  virtual TaskExample example(uint64_t index) const = 0;
  /// Ids are below it.
  virtual int64_t vocab_size() const = 0;
  /// No example is longer.
  virtual int64_t max_tokens() const = 0;
  /// Everything the examples depend on, seed and defaults included.
  virtual Node settings() const = 0;
};

/// Makes the generator `name`. `options` is a map, key → value; `seed` (default 0) belongs to every
/// task. `tokenizer` may be null for tasks on bare ids; a generator of texts keeps a reference.
/// Throws Error(kRequest) for an unknown name, key or combination, naming it.
std::unique_ptr<TaskGenerator> make_generator(const std::string& name, const Node& options,
                                              const Tokenizer* tokenizer);

/// What a list of tasks says of one generator.
struct GeneratorInfo {
  std::string name;
  std::string help;   ///< one line
  bool text = false;  ///< needs a tokenizer
};
const std::vector<GeneratorInfo>& generators();
std::vector<std::string> generator_names();

}  // namespace ashlar
