// KeyDiff (Park et al., arXiv 2504.15364): keys that point where the others point say least. With
// the anchor μ = 1/n Σ_j k_j/‖k_j‖ over the rows held, the rows of largest cosine(k_j, μ) go, per
// KV head. Needs no attention.
// Choices: keys as the cache holds them, decoded and turned by RoPE; a latent row is its key. Ties
// drop the older row. The paper compresses a prompt block by block; here it is held whole and
// compressed once. Computing cosines reads all keys, so --kv-drop lets several rows go at once.

#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class KeyDiff final : public DropsLeast {
 public:
  explicit KeyDiff(const RowBudget& rows)
      : DropsLeast({.per_head = true, .key_cosines = true, .features_above = rows.all()}, rows) {}

 private:
  std::function<double(int64_t)> values(const LaneView& lane) const override {
    return [&lane](int64_t slot) { return worth(-lane.key_cosines[static_cast<size_t>(slot)]); };
  }
};

}  // namespace

std::unique_ptr<Policy> make_keydiff(const PolicyOptions& options,
                                     std::span<const KvGroup> governed) {
  return std::make_unique<KeyDiff>(rows_one_by_one(options, governed.size(), 1));
}

}  // namespace ashlar
