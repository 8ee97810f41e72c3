#pragma once

#include "eval/text_items.h"

namespace ashlar {

/// BLiMP (Warstadt et al. 2020, arXiv 1912.00582): minimal pairs of sentences; right where the
/// whole grammatical one is strictly more likely. Of each item: whether it was, log p of the good
/// and of the bad sentence. A row for all, for each phenomenon and for each set.
std::unique_ptr<EvalTask> make_blimp(const std::string& name, const std::string& file,
                                     const Node& options, int64_t limit, const TaskModel& model);

}  // namespace ashlar
