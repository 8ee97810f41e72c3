// StreamingLLM (Xiao et al., arXiv 2309.17453): keep the first `sink` rows and the newest ones.
// Deviation: keys keep the rotation of their true position; the paper re-rotates by position in the
// cache, which would need raw keys. The prompt itself is attended in full. Whatever the budget
// leaves beside the sinks is recent, so `recent` only sets a minimum.

#include "engine/policy/policy.h"

namespace ashlar {
namespace {

class Streaming final : public Policy {
 public:
  explicit Streaming(const PolicyOptions& options)
      : sink_(options.sink), recent_(options.budget - options.sink) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      for (size_t slot = 0; slot < lane.positions.size(); ++slot) {
        const int64_t position = lane.positions[slot];
        if (position >= sink_ && position <= lane.newest - recent_) {
          edits[i].drop.push_back(static_cast<int64_t>(slot));
        }
      }
    }
  }

 private:
  int64_t sink_;
  int64_t recent_;
};

}  // namespace

std::unique_ptr<Policy> make_streaming(const PolicyOptions& options,
                                       std::span<const KvGroup> /*governed*/) {
  return std::make_unique<Streaming>(options);
}

}  // namespace ashlar
