// SnapStream (arXiv 2511.03092): a cache of constant shape, N sinks, T rows of the prompt chosen by
// SnapKV's scores (engine/policy/snapkv.h) and a ring of the newest R rows; N = sink, R = recent,
// T = budget − N − R. Decoding writes into the ring only, so it needs no scores.
// The full text was not at hand: regions and ring follow the abstract and readers' notes
// (docs/kv-cache.md). Deviations: rows lie where the lane has room and a new row takes the place of
// the one that leaves the ring (docs/adr/0002), instead of slot N + T + (p mod R); keys keep the
// rotation of their true position. Up to N + T + R rows the cache fills linearly; the three regions
// begin beyond. So after a short prompt the T region holds the first rows behind the sinks, prompt
// or not, where the paper would leave it empty.

#include <algorithm>

#include "engine/policy/snapkv.h"

namespace ashlar {
namespace {

class SnapStream final : public Policy {
 public:
  SnapStream(const RowBudget& rows, const SnapKvOptions& options)
      : Policy(snapkv_needs(options)), rows_(rows), options_(options) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = rows_.excess(lane);
      if (lane.prompt_end) {
        keep_best(lane, rows_, options_, lane.rows() - excess, edits[i]);
      } else if (excess > 0) {
        // The unprotected rows that are newest have just left the ring.
        edits[i].drop = least_slots(lane, rows_.candidates(lane), excess, [&](int64_t slot) {
          return -static_cast<double>(lane.positions[static_cast<size_t>(slot)]);
        });
      }
    }
  }

 private:
  RowBudget rows_;
  SnapKvOptions options_;
};

}  // namespace

std::unique_ptr<Policy> make_snapstream(const PolicyOptions& options,
                                        std::span<const KvGroup> governed) {
  SnapKvOptions own = snapkv_options(options, governed);
  if (options.recent < 0) own.recent = std::max<int64_t>(1, (options.budget - options.sink) / 2);
  return std::make_unique<SnapStream>(RowBudget(options, governed.size(), own.recent), own);
}

}  // namespace ashlar
