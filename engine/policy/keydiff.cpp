// KeyDiff (Park et al., arXiv 2504.15364): keys that point where the others point say least. With
// the anchor μ = 1/n Σ_j k_j/‖k_j‖ over the rows held, the rows of largest cosine(k_j, μ) go, per
// KV head. Needs no attention.
// Choices: keys as the cache holds them, decoded and turned by RoPE; a latent row is its key. Ties
// drop the older row. The paper compresses a prompt block by block; here it is held whole and
// compressed once. Computing cosines reads all keys, so --kv-drop lets several rows go at once.

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class KeyDiff final : public Policy {
 public:
  explicit KeyDiff(const RowBudget& rows)
      : Policy({.per_head = true, .key_cosines = true, .features_above = rows.all()}),
        rows_(rows) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = rows_.excess(lane);
      if (excess == 0) continue;
      edits[i].drop = least_slots(lane, rows_.candidates(lane), excess, [&](int64_t slot) {
        return worth(-lane.key_cosines[static_cast<size_t>(slot)]);
      });
    }
  }

 private:
  RowBudget rows_;
};

}  // namespace

std::unique_ptr<Policy> make_keydiff(const PolicyOptions& options,
                                     std::span<const KvGroup> governed) {
  return std::make_unique<KeyDiff>(RowBudget(options, governed.size(),
                                             options.recent >= 0 ? options.recent : 1,
                                             std::max<int64_t>(1, options.drop)));
}

}  // namespace ashlar
