#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "eval/task.h"

namespace ashlar {

/// What a task needs to know of the model and of how it is scored.
struct TaskModel {
  int64_t vocab_size = 0;
  int64_t context_length = 0;
  /// A cache policy acts: texts are then read as far as their question in one piece, and the rest
  /// one token at a time, so that it does. Without one that gives the same numbers, only slower.
  bool evicts = false;
  /// Called for tasks of text only; may throw where the model has none. The tokenizer must live as
  /// long as the task.
  std::function<const Tokenizer&()> tokenizer;
};

/// What a list of tasks says of one kind.
struct TaskKind {
  std::string name;   ///< "lambada"
  std::string usage;  ///< "lambada:FILE"
  std::string help;   ///< one line
};
/// All kinds that make_eval_task() knows, files first, then generated tasks.
const std::vector<TaskKind>& task_kinds();
/// Whether `text`, up to its colon, names one of them.
bool is_eval_task(const std::string& text);

/// Makes the task of a command line:
///
///   KIND:FILE[,key=value…]      lambada, blimp, choice, hellaswag
///   KIND[:key=value,…]          generated tasks (data/tasks/generator.h)
///
/// Values are integers, numbers, true, false, or text, in which \n, \, and \\ stand for a new line,
/// a comma and a backslash. A FILE that exists under the whole text behind the colon is taken so.
/// `limit` > 0 keeps the first so many items (of each set, for blimp). Throws Error(kRequest) for
/// what is wrong, naming the task and the key; Error(kData) for a damaged file.
std::unique_ptr<EvalTask> make_eval_task(const std::string& text, int64_t limit,
                                         const TaskModel& model);

/// `{key: value}` of "key=value,key=value"; see make_eval_task().
Node parse_task_options(const std::string& task, std::string_view text);

}  // namespace ashlar
