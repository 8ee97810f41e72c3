// TOVA (Oren et al., arXiv 2401.06104): the newest query's attention, its mean over all heads of a
// layer, decides for all heads alike; the row of least attention goes.
// Choices: a group's lane holds all its heads, and its score sums heads and readers (the order is
// that of the mean); ties drop the older row. The paper protects nothing: that is --kv-sink 0
// --kv-recent 0. The default keeps sinks, as every policy does, and the newest row.

#include "engine/policy/row_budget.h"

namespace ashlar {

std::unique_ptr<Policy> make_tova(const PolicyOptions& options, std::span<const KvGroup> governed) {
  return std::make_unique<DropsLeastScored>(PolicyNeeds{.reducer = ScoreReducer::kLast},
                                            rows_one_by_one(options, governed.size(), 1));
}

}  // namespace ashlar
