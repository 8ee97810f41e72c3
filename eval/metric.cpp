#include "eval/metric.h"

#include <algorithm>
#include <cmath>
#include <tuple>

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

std::vector<Sums> parts_of(const Metric& metric, std::span<const std::vector<double>> items) {
  ASHLAR_CHECK(metric.first >= 0 && metric.first <= metric.last &&
               metric.last <= static_cast<int64_t>(items.size()));
  std::vector<Sums> parts;
  for (int64_t i = metric.first; i < metric.last; ++i) {
    parts.push_back(sums_of(metric, items[static_cast<size_t>(i)]));
  }
  return parts;
}

Sums total_of(const std::vector<Sums>& parts) {
  Sums total;
  for (const Sums& part : parts) {
    total.numerator += part.numerator;
    total.denominator += part.denominator;
  }
  return total;
}

/// Calls visit(picked) with the items of every resample, `n` numbers below n. They depend on n and
/// the options only, so arms with the same items are resampled alike.
template <typename Visit>
void for_each_resample(size_t n, const BootstrapOptions& options, const Visit& visit) {
  const Philox random(options.seed, 0x626f6f74);  // "boot"
  uint64_t draw = 0;
  std::vector<size_t> picked(n);
  for (int64_t r = 0; r < options.resamples; ++r) {
    for (size_t& item : picked) item = random.below(draw++, n);
    visit(std::span<const size_t>(picked));
  }
}

Sums sums_over(const std::vector<Sums>& items, std::span<const size_t> picked) {
  Sums sum;
  for (const size_t item : picked) {
    sum.numerator += items[item].numerator;
    sum.denominator += items[item].denominator;
  }
  return sum;
}

/// The 2.5 % and 97.5 % quantiles.
std::pair<double, double> quantiles(std::vector<double>& values) {
  ASHLAR_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {
    return values[static_cast<size_t>(std::llround(q * static_cast<double>(values.size() - 1)))];
  };
  return {quantile(0.025), quantile(0.975)};
}

/// The interval of the ratio over resampled items; both transforms keep order.
std::pair<double, double> interval(const std::vector<Sums>& items,
                                   const BootstrapOptions& options) {
  std::vector<double> ratios;
  for_each_resample(items.size(), options, [&](std::span<const size_t> picked) {
    const Sums sum = sums_over(items, picked);
    if (sum.denominator != 0) ratios.push_back(sum.numerator / sum.denominator);
  });
  return quantiles(ratios);
}

}  // namespace

EvalRow summarize(const Metric& metric, std::span<const std::vector<double>> items,
                  const BootstrapOptions& options) {
  const std::vector<Sums> parts = parts_of(metric, items);
  const Sums total = total_of(parts);
  require(total.denominator > 0, ErrorCode::kRequest, "{}: {} has nothing to be computed over",
          metric.task, metric.name);
  const double ratio = total.numerator / total.denominator;
  require(std::isfinite(ratio), ErrorCode::kInternal, "{}: {} is {}", metric.task, metric.name,
          ratio);
  EvalRow row;
  row.task = metric.task;
  row.metric = metric.name;
  row.n = std::llround(total.denominator);
  row.lower_is_better = metric.lower_is_better;
  row.value = row.low = row.high = value_of(metric, ratio);
  if (options.resamples > 0) {
    const auto [low, high] = interval(parts, options);
    row.low = value_of(metric, low);
    row.high = value_of(metric, high);
  }
  return row;
}

Difference compare(const Metric& metric, std::span<const std::vector<double>> items,
                   std::span<const std::vector<double>> full, const BootstrapOptions& options) {
  const std::vector<Sums> own = parts_of(metric, items), reference = parts_of(metric, full);
  ASHLAR_CHECK_EQ(items.size(), full.size());
  const auto value = [&](const Sums& sums) {
    return value_of(metric, sums.numerator / sums.denominator);
  };
  std::vector<double> absolute, relative;
  bool divides = true;  // the full cache's value is never zero
  const auto add = [&](const Sums& a, const Sums& b) {
    if (a.denominator == 0 || b.denominator == 0) return;
    const double x = value(a), y = value(b);
    absolute.push_back(x - y);
    divides = divides && y != 0;
    if (divides) relative.push_back(x / y - 1);
  };
  add(total_of(own), total_of(reference));
  require(!absolute.empty(), ErrorCode::kRequest, "{}: {} has nothing to be computed over",
          metric.task, metric.name);
  Difference out;
  out.absolute.value = out.absolute.low = out.absolute.high = absolute[0];
  if (divides) out.relative = Interval{relative[0], relative[0], relative[0]};
  absolute.clear();
  relative.clear();
  for_each_resample(own.size(), options, [&](std::span<const size_t> picked) {
    add(sums_over(own, picked), sums_over(reference, picked));
  });
  if (!divides) out.relative.reset();
  if (absolute.empty()) return out;
  std::tie(out.absolute.low, out.absolute.high) = quantiles(absolute);
  if (divides) std::tie(out.relative->low, out.relative->high) = quantiles(relative);
  return out;
}

}  // namespace ashlar
