// Scissorhands (Liu et al., arXiv 2305.17118, Algorithm 2): tokens that once mattered keep
// mattering. When a lane of budget B holds more than B rows it is compressed once: of the last w
// query rows i,
//   low[j] = Σ_i [ a_i[j] < 1/n_i ],  n_i = rows that query i sees, low = 0 for protected rows,
// and the m rows of largest low go; the paper's w is 400, m = B/2, the newest 10 rows are
// protected. Per KV head: the mean over its query heads is compared with 1/n, and the counts of all
// readers of a group are summed. Choices and deviations: of equal counts the older row goes first.
// A prompt longer than B is attended in full and compressed to what a compression leaves, B + 1 − m
// rows. Only the w query rows before the next compression are recorded; as it comes every m rows,
// there may be fewer. After it counting begins anew. Raw counts favour young rows, which fewer
// queries have seen: `by_age` divides by the rows that saw row j (as cold-compress does, by
// min(age, w)). A prompt after the first goes on counting where its last w rows adjoin decoded ones
// that count, so up to 2w rows may.

#include <algorithm>

#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

constexpr int64_t kPaperWindow = 400, kPaperRecent = 10;  // tokens

PolicyNeeds needs_of(const RowBudget& rows, int64_t window) {
  PolicyNeeds needs;
  needs.reducer = ScoreReducer::kCountBelow;
  needs.per_head = true;
  score_before_drops(rows, window, needs);
  return needs;
}

class Scissorhands final : public Policy {
 public:
  Scissorhands(const RowBudget& rows, int64_t window, bool by_age)
      : Policy(needs_of(rows, window)), rows_(rows), by_age_(by_age) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = rows_.excess(lane);
      if (excess == 0) continue;
      edits[i].drop = least_slots(lane, rows_.candidates(lane), excess,
                                  [&](int64_t slot) { return -low(lane, slot); });
      edits[i].forget = true;
    }
  }

 private:
  double low(const LaneView& lane, int64_t slot) const {
    const auto count = static_cast<double>(lane.counts[static_cast<size_t>(slot)]);
    if (!by_age_) return count;
    const int64_t age = lane.newest - lane.positions[static_cast<size_t>(slot)] + 1;
    return count / static_cast<double>(std::min(age, lane.scored_rows) * lane.readers);
  }

  RowBudget rows_;
  bool by_age_;
};

}  // namespace

std::unique_ptr<Policy> make_scissorhands(const PolicyOptions& options,
                                          std::span<const KvGroup> governed) {
  const int64_t recent =
      options.recent >= 0 ? options.recent : default_rows(options, governed, kPaperRecent);
  const int64_t window =
      options.window >= 0 ? options.window : rows_of_tokens(governed, kPaperWindow);
  return std::make_unique<Scissorhands>(RowBudget(options, governed.size(), recent, options.drop),
                                        window, options.by_age);
}

}  // namespace ashlar
