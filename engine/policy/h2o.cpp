// H2O (Zhang et al., arXiv 2306.14048): keep the newest rows and the "heavy hitters", the rows with
// the largest attention probability summed over all queries so far, per KV head.
// Choices: probabilities are summed over the query heads of a KV head and over all readers of the
// group (with cross-layer attention a row serves several layers); the prompt is attended in full
// and scored by all its queries; ties drop the older row; `sink` rows are protected as in every
// policy.

#include <algorithm>

#include "engine/policy/row_budget.h"

namespace ashlar {

std::unique_ptr<Policy> make_h2o(const PolicyOptions& options, std::span<const KvGroup> governed) {
  PolicyNeeds needs;
  needs.reducer = ScoreReducer::kSum;
  needs.per_head = true;
  const int64_t half = std::max<int64_t>(1, (options.budget - options.sink) / 2);
  return std::make_unique<DropsLeastScored>(std::move(needs),
                                            rows_one_by_one(options, governed.size(), half));
}

}  // namespace ashlar
