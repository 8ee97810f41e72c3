// H2O (Zhang et al., arXiv 2306.14048): keep the newest rows and the "heavy hitters", the rows with
// the largest attention probability summed over all queries so far, per KV head.
// Choices: probabilities are summed over the query heads of a KV head and over all readers of the
// group (with cross-layer attention a row serves several layers); the prompt is attended in full
// and scored by all its queries; ties drop the older row; `sink` rows are protected as in every
// policy.

#include <algorithm>

#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

PolicyNeeds needs_of_h2o() {
  PolicyNeeds needs;
  needs.reducer = ScoreReducer::kSum;
  needs.per_head = true;
  return needs;
}

class H2o final : public Policy {
 public:
  explicit H2o(const RowBudget& rows) : Policy(needs_of_h2o()), rows_(rows) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = rows_.excess(lane);
      if (excess == 0) continue;
      edits[i].drop = least_slots(lane, rows_.candidates(lane), excess, [&](int64_t slot) {
        return worth(lane.scores[static_cast<size_t>(slot)]);
      });
    }
  }

 private:
  RowBudget rows_;
};

}  // namespace

std::unique_ptr<Policy> make_h2o(const PolicyOptions& options, std::span<const KvGroup> governed) {
  const int64_t half = std::max<int64_t>(1, (options.budget - options.sink) / 2);
  return std::make_unique<H2o>(RowBudget(options, governed.size(),
                                         options.recent >= 0 ? options.recent : half,
                                         std::max<int64_t>(1, options.drop)));
}

}  // namespace ashlar
