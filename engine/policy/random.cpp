// Random eviction, the floor that other methods are measured against. Every row of a KV head draws
// one number, a function of seed, group, head and position (Philox), and the rows of least numbers
// go: so each row that was ever there is as likely to be held as any other, whatever the steps
// were.

#include <algorithm>

#include "core/base/rng.h"
#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class Random final : public Policy {
 public:
  Random(const RowBudget& rows, uint64_t seed)
      : Policy({.per_head = true}), rows_(rows), seed_(seed) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = rows_.excess(lane);
      if (excess == 0) continue;
      const Philox rng(seed_,
                       static_cast<uint64_t>(lane.group) << 32 | static_cast<uint64_t>(lane.head));
      edits[i].drop = least_slots(lane, rows_.candidates(lane), excess, [&](int64_t slot) {
        return rng.uniform(static_cast<uint64_t>(lane.positions[static_cast<size_t>(slot)]));
      });
    }
  }

 private:
  RowBudget rows_;
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Policy> make_random(const PolicyOptions& options,
                                    std::span<const KvGroup> governed) {
  return std::make_unique<Random>(
      RowBudget(options, governed.size(), options.recent >= 0 ? options.recent : 1,
                std::max<int64_t>(1, options.drop)),
      options.seed.value_or(0));
}

}  // namespace ashlar
