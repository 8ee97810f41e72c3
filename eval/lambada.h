#pragma once

#include "eval/text_items.h"

namespace ashlar {

/// LAMBADA (Paperno et al. 2016, arXiv 1606.06031): the last word of a passage, in the form of
/// llm-foundry's file and by the protocol of lm-evaluation-harness. Of each item: whether every
/// token of the continuation was the most likely one, −Σ log p of the continuation, its tokens.
std::unique_ptr<EvalTask> make_lambada(const std::string& name, const std::string& file,
                                       const Node& options, int64_t limit, const TaskModel& model);

}  // namespace ashlar
