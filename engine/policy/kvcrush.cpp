// KVCrush (Jha et al., arXiv 2503.00022) as a policy: which rows stay is decided by select_crush
// (engine/policy/kvcrush_select.h, where the steps are, and where they differ from the two public
// implementations) over the scores of another method.
//
// One lane per group: all KV heads keep the same rows. Head bits need the scores that every head
// gives a row, and lanes of single heads no longer hold the same rows after their first selection.
// So important rows are those of largest score summed over heads, and a row's bits say in which
// heads it is in the better half. With one KV head (multi-query and latent attention) there is one
// bit per row, as with features=page.
//
// Scorers: SnapKV's last w query rows (the default, as in the public implementations; not pooled),
// H2O's sums over all, Scissorhands' counts below 1/n (the fewer the better). Scores are summed
// over the query heads of a KV head and the readers of a group.
//
// When: a prompt of more rows than the budget B is reduced to exactly B rows at its end. The paper
// stops there; here the budget goes on to bound the cache. A lane that passes B while decoding is
// reduced to B + 1 − m rows, m = B/4 unless `drop` says otherwise, so selections lie m rows apart.
// A selection at every row would have to choose k of k + 1 rows as representatives, which no order
// of distances can do sensibly. Windows of query rows: the last w before a selection; when the
// first decoded row after a prompt passes the budget, those of the prompt's end go on counting.

#include <algorithm>

#include "core/base/error.h"
#include "engine/policy/policy_uses.h"
#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

constexpr int64_t kSnapWindow = 32, kCountWindow = 400, kRecent = 32;  // tokens
constexpr int64_t kDropPart = 4;                                       // a quarter of the budget

struct CrushPlan {
  CrushOptions crush;
  int64_t window = 0;  ///< rows; 0: all query rows score
  uint64_t seed = 0;
  bool by_age = false;
};

PolicyNeeds needs_of(const RowBudget& rows, const CrushPlan& plan) {
  PolicyNeeds needs;
  needs.reducer = plan.crush.scorer == CrushScorer::kScissorhands ? ScoreReducer::kCountBelow
                                                                  : ScoreReducer::kSum;
  needs.head_scores = true;
  if (plan.window > 0) score_before_drops(rows, plan.window, needs);
  return needs;
}

class KvCrush final : public Policy {
 public:
  KvCrush(const RowBudget& rows, const CrushPlan& plan)
      : Policy(needs_of(rows, plan)), rows_(rows), plan_(plan) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      const int64_t excess = lane.prompt_end ? rows_.beyond(lane) : rows_.excess(lane);
      if (excess == 0) continue;
      edits[i].drop = crush(lane, lane.rows() - excess);
      // A prompt's scores are needed once more, when the next row passes the budget.
      edits[i].forget = !lane.prompt_end && plan_.window > 0;
    }
  }

 private:
  // Slots to drop so that `keep` rows stay.
  std::vector<int64_t> crush(const LaneView& lane, int64_t keep) const {
    const std::vector<int32_t> order = slots_by_position(lane.positions);
    const std::vector<float> scores = scores_in(order, lane);
    CrushRequest request;
    request.rows = lane.rows();
    request.heads = lane.heads;
    request.scores = scores;
    // Neither of these has ever been dropped, so all of them are here.
    request.sink = std::min(rows_.sink(), lane.rows());
    request.recent = std::min(rows_.recent(), lane.rows() - request.sink);
    request.page = plan_.crush.page;
    request.budget = keep;
    request.representatives = plan_.crush.ratio;
    request.feature = plan_.crush.features;
    request.anchor = plan_.crush.anchor;
    request.seed = plan_.seed;
    request.draw = static_cast<uint64_t>(lane.group) << 32 | static_cast<uint64_t>(lane.newest);
    const CrushSelection selection = select_crush(request);
    std::vector<int64_t> drop;
    for (size_t row = 0; row < order.size(); ++row) {
      if (selection.roles[row] == CrushRole::kDropped) drop.push_back(order[row]);
    }
    std::sort(drop.begin(), drop.end());
    return drop;
  }

  // [heads, rows] by position, larger is better.
  std::vector<float> scores_in(std::span<const int32_t> order, const LaneView& lane) const {
    const bool counts = plan_.crush.scorer == CrushScorer::kScissorhands;
    const std::span<const float> given = counts ? lane.head_counts : lane.head_scores;
    std::vector<float> out(given.size());
    for (size_t i = 0, rows = order.size(); i < out.size(); ++i) {
      const auto slot = static_cast<size_t>(order[i % rows]);
      const float score = given[i - i % rows + slot];
      out[i] = counts ? -score : score;
      if (!plan_.by_age) continue;
      const int64_t age = lane.newest - lane.positions[slot] + 1;
      out[i] /= static_cast<float>(std::min(age, lane.scored_rows) * lane.readers);
    }
    return out;
  }

  RowBudget rows_;
  CrushPlan plan_;
};

// Options that the others make useless.
void check_together(const PolicyOptions& o, const CrushPlan& plan) {
  const CrushScorer scorer = plan.crush.scorer;
  require(o.window == -1 || scorer != CrushScorer::kH2o, ErrorCode::kRequest,
          "--kv-policy kvcrush: --kv-window: scorer=h2o sums over all query rows");
  require(!o.by_age || scorer == CrushScorer::kScissorhands, ErrorCode::kRequest,
          "--kv-policy kvcrush: --kv-by-age: only scorer=scissorhands keeps counts");
  require(!o.seed || plan.crush.anchor == CrushAnchor::kRandom, ErrorCode::kRequest,
          "--kv-policy kvcrush: --kv-seed: only anchor=random draws something");
  require(plan.crush.ratio >= 0 && plan.crush.ratio <= 1, ErrorCode::kRequest,
          "--kv-policy kvcrush: --kv-crush ratio={}: a share lies in [0, 1]", plan.crush.ratio);
}

// Every selection must have room for a page, or it would silently choose single rows by score.
void check_page(const RowBudget& rows, int64_t page) {
  require(page >= 1, ErrorCode::kRequest, "--kv-policy kvcrush: pages of {} rows", page);
  if (page == 1) return;
  for (size_t place = 0; place < rows.all().size(); ++place) {
    const auto at = static_cast<int64_t>(place);
    const int64_t left = rows.of(at) + 1 - rows.drop(at) - rows.sink() - rows.recent();
    require(page <= left, ErrorCode::kRequest,
            "--kv-policy kvcrush: --kv-crush page of {} rows: a selection while decoding keeps {} "
            "of {} rows, sink + recent = {} + {} among them: no page fits; take a smaller page or "
            "--kv-drop, or a larger budget",
            page, rows.of(at) + 1 - rows.drop(at), rows.of(at), rows.sink(), rows.recent());
  }
}

}  // namespace

std::unique_ptr<Policy> make_kvcrush(const PolicyOptions& options,
                                     std::span<const KvGroup> governed) {
  CrushPlan plan;
  plan.crush = options.crush.value_or(CrushOptions{});
  plan.seed = options.seed.value_or(0);
  plan.by_age = options.by_age;
  check_together(options, plan);
  int64_t recent = default_rows(options, governed, kRecent);
  if (plan.crush.scorer == CrushScorer::kSnapKv) {
    // As in SnapKV: rows that only a part of the window saw stay.
    plan.window =
        options.window >= 0 ? options.window : default_rows(options, governed, kSnapWindow);
    recent = plan.window;
  } else if (plan.crush.scorer == CrushScorer::kScissorhands) {
    plan.window = options.window >= 0 ? options.window : rows_of_tokens(governed, kCountWindow);
  }
  const RowBudget rows(options, governed.size(), options.recent >= 0 ? options.recent : recent,
                       options.drop, kDropPart);
  check_page(rows, plan.crush.page);
  return std::make_unique<KvCrush>(rows, plan);
}

}  // namespace ashlar
