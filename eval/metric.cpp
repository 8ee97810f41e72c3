#include "eval/metric.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

struct Sums {
  double numerator = 0, denominator = 0;
};

Sums sums_of(const Metric& metric, const std::vector<double>& item) {
  const double below = metric.denominator < 0 ? 1.0 : item[static_cast<size_t>(metric.denominator)];
  return {item[static_cast<size_t>(metric.numerator)], below};
}

double value_of(const Metric& metric, double ratio) {
  const double scaled = metric.scale * ratio;
  return metric.transform == Transform::kExp ? std::exp(scaled) : scaled;
}

/// The 2.5 % and 97.5 % quantiles of the ratio over resampled items; both transforms keep order.
std::pair<double, double> interval(const std::vector<Sums>& items,
                                   const BootstrapOptions& options) {
  std::vector<double> ratios;
  const Philox random(options.seed, 0x626f6f74);  // "boot"
  uint64_t draw = 0;
  for (int64_t r = 0; r < options.resamples; ++r) {
    Sums sum;
    for (size_t k = 0; k < items.size(); ++k) {
      const Sums& item = items[random.below(draw++, items.size())];
      sum.numerator += item.numerator;
      sum.denominator += item.denominator;
    }
    if (sum.denominator != 0) ratios.push_back(sum.numerator / sum.denominator);
  }
  ASHLAR_CHECK(!ratios.empty());
  std::sort(ratios.begin(), ratios.end());
  const auto quantile = [&](double q) {
    return ratios[static_cast<size_t>(std::llround(q * static_cast<double>(ratios.size() - 1)))];
  };
  return {quantile(0.025), quantile(0.975)};
}

}  // namespace

EvalRow summarize(const Metric& metric, std::span<const std::vector<double>> items,
                  const BootstrapOptions& options) {
  ASHLAR_CHECK(metric.first >= 0 && metric.first <= metric.last &&
               metric.last <= static_cast<int64_t>(items.size()));
  std::vector<Sums> parts;
  Sums total;
  for (int64_t i = metric.first; i < metric.last; ++i) {
    parts.push_back(sums_of(metric, items[static_cast<size_t>(i)]));
    total.numerator += parts.back().numerator;
    total.denominator += parts.back().denominator;
  }
  require(total.denominator > 0, ErrorCode::kRequest, "{}: {} has nothing to be computed over",
          metric.task, metric.name);
  const double ratio = total.numerator / total.denominator;
  require(std::isfinite(ratio), ErrorCode::kInternal, "{}: {} is {}", metric.task, metric.name,
          ratio);
  EvalRow row;
  row.task = metric.task;
  row.metric = metric.name;
  row.n = std::llround(total.denominator);
  row.value = row.low = row.high = value_of(metric, ratio);
  if (options.resamples > 0) {
    const auto [low, high] = interval(parts, options);
    row.low = value_of(metric, low);
    row.high = value_of(metric, high);
  }
  return row;
}

}  // namespace ashlar
