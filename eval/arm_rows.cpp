// Rows of several arms: each arm's figures, and what they are beside the full cache's.

#include <algorithm>

#include "core/base/error.h"
#include "eval/evaluate.h"

namespace ashlar {
namespace {

/// Mean bytes of a text's cache over some items.
struct MeanBytes {
  double end = 0, prompt = 0;
};

MeanBytes mean_bytes(const Metric& metric, const std::vector<ItemResult>& results) {
  MeanBytes mean;
  for (int64_t i = metric.first; i < metric.last; ++i) {
    mean.end += static_cast<double>(results[static_cast<size_t>(i)].kv_bytes);
    mean.prompt += static_cast<double>(results[static_cast<size_t>(i)].kv_prompt_bytes);
  }
  const auto items = static_cast<double>(metric.last - metric.first);
  if (items > 0) mean = {mean.end / items, mean.prompt / items};
  return mean;
}

std::optional<double> ratio(double bytes, double full) {
  return full > 0 ? std::optional(bytes / full) : std::nullopt;
}

std::vector<std::vector<double>> values_of(const std::vector<ItemResult>& results) {
  std::vector<std::vector<double>> values;
  for (const ItemResult& result : results) {
    require(values.empty() || result.values.size() == values.front().size(), ErrorCode::kData,
            "items {} and 0 have different numbers of values", values.size());
    values.push_back(result.values);
  }
  return values;
}

bool dominates(const EvalRow& other, const EvalRow& row) {
  const auto quality = [](const EvalRow& r) { return r.lower_is_better ? -r.value : r.value; };
  const double bytes = other.arm->mean_bytes - row.arm->mean_bytes;
  const double better = quality(other) - quality(row);
  return bytes <= 0 && better >= 0 && (bytes < 0 || better > 0);
}

// `rows`: one metric of every arm.
void mark_pareto(std::span<EvalRow*> rows) {
  for (EvalRow* row : rows) {
    row->arm->pareto = std::none_of(rows.begin(), rows.end(),
                                    [&](const EvalRow* other) { return dominates(*other, *row); });
  }
}

}  // namespace

std::vector<EvalRow> rows_of(std::span<const Metric> metrics, std::span<const Arm> arms,
                             const ArmResults& results, const BootstrapOptions& options,
                             const Node& settings) {
  ASHLAR_CHECK_EQ(results.size(), arms.size());
  const auto full = static_cast<size_t>(std::ranges::find(arms, true, &Arm::full) - arms.begin());
  const bool compared = full < arms.size();
  const auto full_values = compared ? values_of(results[full]) : std::vector<std::vector<double>>();
  std::vector<EvalRow> rows;
  for (size_t a = 0; a < arms.size(); ++a) {
    const auto values = values_of(results[a]);
    EvalRow common;  // to all metrics of the arm
    for (const ItemResult& result : results[a]) {
      common.seconds += result.seconds;
      common.kv_bytes = std::max(common.kv_bytes, result.kv_bytes);
      common.kv_prompt_bytes = std::max(common.kv_prompt_bytes, result.kv_prompt_bytes);
      common.kv_shared_tokens += result.kv_shared_tokens;
    }
    for (const Metric& metric : metrics) {
      EvalRow row = summarize(metric, values, options);
      row.seconds = common.seconds;
      row.kv_bytes = common.kv_bytes;
      row.kv_prompt_bytes = common.kv_prompt_bytes;
      row.kv_shared_tokens = common.kv_shared_tokens;
      row.settings = merged({settings, arms[a].settings});
      const MeanBytes own = mean_bytes(metric, results[a]);
      ArmFigures& figures = row.arm.emplace();
      figures.arm = arms[a];
      figures.mean_bytes = own.end;
      figures.mean_prompt_bytes = own.prompt;
      if (compared) {
        const MeanBytes of_full = mean_bytes(metric, results[full]);
        figures.share = ratio(own.end, of_full.end);
        figures.prompt_share = ratio(own.prompt, of_full.prompt);
        figures.difference = compare(metric, values, full_values, options);
      }
      rows.push_back(std::move(row));
    }
  }
  for (size_t m = 0; m < metrics.size(); ++m) {
    std::vector<EvalRow*> same;
    for (size_t a = 0; a < arms.size(); ++a) same.push_back(&rows[a * metrics.size() + m]);
    mark_pareto(same);
  }
  return rows;
}

}  // namespace ashlar
