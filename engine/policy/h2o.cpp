// H2O (Zhang et al., arXiv 2306.14048): keep the newest rows and the "heavy hitters", the rows with
// the largest attention probability summed over all queries so far, per KV head.
// Choices: probabilities are summed over the query heads of a KV head and over all readers of the
// group (with cross-layer attention a row serves several layers); the prompt is attended in full
// and scored by all its queries; ties drop the older row; `sink` rows are protected as in every
// policy.

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "engine/policy/policy.h"

namespace ashlar {
namespace {

class H2o final : public Policy {
 public:
  explicit H2o(const PolicyOptions& options)
      : budget_(options.budget),
        sink_(options.sink),
        recent_(options.recent >= 0 ? options.recent
                                    : std::max<int64_t>(1, (options.budget - options.sink) / 2)) {}

  ScoreReducer reducer() const override { return ScoreReducer::kSum; }
  bool per_head() const override { return true; }

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) select_lane(lanes[i], edits[i].drop);
  }

 private:
  void select_lane(const LaneView& lane, std::vector<int64_t>& drop) const {
    const auto rows = static_cast<int64_t>(lane.positions.size());
    const int64_t excess = rows - budget_;
    if (excess <= 0) return;
    std::vector<int64_t> candidates;
    for (int64_t slot = 0; slot < rows; ++slot) {
      const int64_t position = lane.positions[static_cast<size_t>(slot)];
      if (position >= sink_ && position <= lane.newest - recent_) candidates.push_back(slot);
    }
    ASHLAR_CHECK_LE(excess, static_cast<int64_t>(candidates.size()));
    // A score that is not a number (broken weights) counts as the lightest, so that the order stays
    // a strict one.
    const auto score = [&](int64_t slot) {
      const float s = lane.scores[static_cast<size_t>(slot)];
      return std::isnan(s) ? -1.0f : s;
    };
    const auto lighter = [&](int64_t a, int64_t b) {
      const float x = score(a), y = score(b);
      return x != y
                 ? x < y
                 : lane.positions[static_cast<size_t>(a)] < lane.positions[static_cast<size_t>(b)];
    };
    std::nth_element(candidates.begin(), candidates.begin() + (excess - 1), candidates.end(),
                     lighter);
    candidates.resize(static_cast<size_t>(excess));
    std::sort(candidates.begin(), candidates.end());
    drop = std::move(candidates);
  }

  int64_t budget_;
  int64_t sink_;
  int64_t recent_;
};

}  // namespace

std::unique_ptr<Policy> make_h2o(const PolicyOptions& options) {
  return std::make_unique<H2o>(options);
}

}  // namespace ashlar
