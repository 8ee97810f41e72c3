// SnapKV (engine/policy/snapkv.h). What is decoded is kept whole, as in the paper: the budget
// bounds the prompt's rows, and those of every later prompt with all that is there when it ends.

#include "engine/policy/snapkv.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kWindow = 32, kPoolRows = 5;  // of the authors' code

double pool(std::span<const double> scores, int64_t middle, const SnapKvOptions& options) {
  const int64_t half = options.pool_rows / 2, n = static_cast<int64_t>(scores.size());
  const int64_t begin = std::max<int64_t>(0, middle - half), end = std::min(n, middle + half + 1);
  const auto part = scores.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  if (options.pool == PoolKind::kMax) return *std::max_element(part.begin(), part.end());
  double sum = 0;
  for (const double score : part) sum += score;
  return sum / static_cast<double>(options.pool_rows);
}

class SnapKv final : public Policy {
 public:
  SnapKv(const RowBudget& rows, const SnapKvOptions& options)
      : Policy(snapkv_needs(options)), rows_(rows), options_(options) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      if (!lane.prompt_end) continue;
      keep_best(lane, rows_, options_, lane.rows() - rows_.excess(lane), edits[i]);
    }
  }

 private:
  RowBudget rows_;
  SnapKvOptions options_;
};

}  // namespace

SnapKvOptions snapkv_options(const PolicyOptions& options, std::span<const KvGroup> governed) {
  SnapKvOptions out;
  out.window = options.window >= 0 ? options.window : default_rows(options, governed, kWindow);
  out.recent = options.recent >= 0 ? options.recent : out.window;
  out.pool = options.pool == PoolKind::kDefault ? PoolKind::kAverage : options.pool;
  out.pool_rows = options.pool_rows >= 0 ? options.pool_rows : kPoolRows;
  if (out.pool == PoolKind::kNone) {
    require(options.pool_rows <= 1, ErrorCode::kRequest,
            "--kv-policy {}: --kv-pool none of {} rows: name avg or max to pool", options.name,
            options.pool_rows);
    out.pool_rows = 1;
  }
  return out;
}

PolicyNeeds snapkv_needs(const SnapKvOptions& options) {
  PolicyNeeds needs;
  needs.reducer = ScoreReducer::kSum;
  needs.per_head = true;
  needs.prompt_rows = options.window;
  needs.decoded_rows = false;
  return needs;
}

std::vector<double> pooled_scores(const LaneView& lane, const SnapKvOptions& options) {
  std::vector<int32_t> order = slots_by_position(lane.positions);
  while (!order.empty() &&
         lane.positions[static_cast<size_t>(order.back())] > lane.newest - options.recent) {
    order.pop_back();
  }
  // A score that is not a number must not spread: it adds nothing and is the largest of nothing.
  const double nothing =
      options.pool == PoolKind::kMax ? -std::numeric_limits<double>::infinity() : 0.0;
  std::vector<double> scores;
  for (const int32_t slot : order) {
    const float score = lane.scores[static_cast<size_t>(slot)];
    scores.push_back(std::isnan(score) ? nothing : static_cast<double>(score));
  }
  std::vector<double> pooled(lane.positions.size());
  for (size_t i = 0; i < order.size(); ++i) {
    pooled[static_cast<size_t>(order[i])] = pool(scores, static_cast<int64_t>(i), options);
  }
  return pooled;
}

void keep_best(const LaneView& lane, const RowBudget& rows, const SnapKvOptions& options,
               int64_t keep, LaneEdit& edit) {
  edit.forget = true;
  if (keep >= lane.rows()) return;
  const std::vector<double> pooled = pooled_scores(lane, options);
  edit.drop = least_slots(lane, rows.candidates(lane), lane.rows() - keep,
                          [&](int64_t slot) { return pooled[static_cast<size_t>(slot)]; });
}

std::unique_ptr<Policy> make_snapkv(const PolicyOptions& options,
                                    std::span<const KvGroup> governed) {
  const SnapKvOptions own = snapkv_options(options, governed);
  return std::make_unique<SnapKv>(RowBudget(options, governed.size(), own.recent), own);
}

}  // namespace ashlar
