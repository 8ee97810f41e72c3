// PyramidKV (Cai et al., arXiv 2406.02069): SnapKV whose budgets fall from layer to layer. With
// s = budget − protected rows, group l of L keeps, beside the protected rows,
//   max − l·(max − min)/(L − 1),  min = s/β,  max = 2s − min,  β = 20,
// so that the mean is s. A prompt of fewer than max unprotected rows cannot use them: then
// max = their number and min = 2s − max, as in the authors' code; with one group it is SnapKV.
// Deviations: layers are KvGroups, since layers that share a cache share a budget; rounding keeps
// the sum exact (share_out); sinks are protected.

#include <algorithm>

#include "core/base/error.h"
#include "engine/policy/snapkv.h"

namespace ashlar {
namespace {

class PyramidKv final : public Policy {
 public:
  PyramidKv(const RowBudget& rows, const SnapKvOptions& options, double top, size_t groups)
      : Policy(snapkv_needs(options)), rows_(rows), options_(options), top_(top), groups_(groups) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      if (!lane.prompt_end) continue;
      keep_best(lane, rows_, options_, kept(lane), edits[i]);
    }
  }

 private:
  int64_t kept(const LaneView& lane) const {
    const int64_t fixed = rows_.sink() + rows_.recent(), spare = rows_.budget() - fixed;
    if (lane.newest < rows_.budget()) return lane.rows();
    // max/s is top_ or, for a short prompt, what the text has; it is 2 − 1/β for β = 1/(2 − max/s).
    const double there = static_cast<double>(lane.newest + 1 - fixed);
    const double top = spare == 0 ? 1.0 : std::min(top_, there / static_cast<double>(spare));
    const std::vector<double> weights = falling_weights(1 / (2 - top), groups_);
    return share_out(weights, rows_.budget(), fixed)[static_cast<size_t>(lane.place)];
  }

  RowBudget rows_;
  SnapKvOptions options_;
  double top_;  // max/s of a long prompt
  size_t groups_;
};

}  // namespace

std::unique_ptr<Policy> make_pyramidkv(const PolicyOptions& options,
                                       std::span<const KvGroup> governed) {
  PolicyOptions falling = options;
  if (options.layers.empty()) falling.layers = "falling";
  require(falling.layers.starts_with("falling"), ErrorCode::kRequest,
          "--kv-policy pyramidkv: --kv-layers {}: its budgets fall; give falling:β, or use snapkv",
          options.layers);
  const SnapKvOptions own = snapkv_options(options, governed);
  const std::vector<double> weights =
      layer_weights(falling.layers, std::max<size_t>(2, governed.size()));
  return std::make_unique<PyramidKv>(RowBudget(falling, governed.size(), own.recent), own,
                                     weights.front(), governed.size());
}

}  // namespace ashlar
