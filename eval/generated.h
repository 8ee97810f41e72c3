#pragma once

#include "eval/tasks.h"

namespace ashlar {

/// A generated task (data/tasks/generator.h) as an evaluation. Options beside the generator's: `n`
/// examples (default 500), `seed` (default 1: training's default is 0, so nothing is asked that was
/// trained on), `query_aware` (default false: a cache policy acts before the question is known;
/// true: once more of the text, up to the first answer, is in), `marker` (default true: the start
/// marker stands in front). Of each item: whether all answer tokens were the most likely ones, how
/// many were, how many there are, −Σ log p of them. A list of MQAR shapes gives `n` items of each.
std::unique_ptr<EvalTask> make_generated(const std::string& name, const std::string& generator,
                                         const Node& options, int64_t limit,
                                         const TaskModel& model);

}  // namespace ashlar
