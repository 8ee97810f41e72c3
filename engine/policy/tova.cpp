// TOVA (Oren et al., arXiv 2401.06104): the newest query's attention, its mean over all heads of a
// layer, decides for all heads alike; the row of least attention goes.
// Choices: a group's lane holds all its heads, and its score sums heads and readers (the order is
// that of the mean); ties drop the older row. The paper protects nothing: that is --kv-sink 0
// --kv-recent 0. The default keeps sinks, as every policy does, and the newest row.

#include <algorithm>

#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class Tova final : public Policy {
 public:
  explicit Tova(const RowBudget& rows) : Policy({.reducer = ScoreReducer::kLast}), rows_(rows) {}

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

std::unique_ptr<Policy> make_tova(const PolicyOptions& options, std::span<const KvGroup> governed) {
  return std::make_unique<Tova>(RowBudget(options, governed.size(),
                                          options.recent >= 0 ? options.recent : 1,
                                          std::max<int64_t>(1, options.drop)));
}

}  // namespace ashlar
