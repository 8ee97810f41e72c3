#pragma once

#include "eval/text_items.h"

namespace ashlar {

/// Multiple choice: the right answer is to be the most likely continuation, in sum (accuracy), per
/// byte of the answer (accuracy_norm, lm-evaluation-harness's acc_bytes) and per token
/// (accuracy_token, llm-foundry's); the first one on ties. Of each item: these three, then log p of
/// every choice, with zeros behind them up to the largest number of choices in the file.
std::unique_ptr<EvalTask> make_choice(const std::string& name, const std::string& file,
                                      const Node& options, int64_t limit, const TaskModel& model);

/// HellaSwag: as make_choice(), from either of its files (data/tasks/task_files.h).
std::unique_ptr<EvalTask> make_hellaswag(const std::string& name, const std::string& file,
                                         const Node& options, int64_t limit,
                                         const TaskModel& model);

}  // namespace ashlar
