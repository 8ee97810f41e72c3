#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/report.h"

namespace ashlar {

/// What becomes of the ratio of a metric's sums.
enum class Transform { kPlain, kExp };

/// transform(scale · Σ numerator / Σ denominator) over the items [first, last) of a task, where
/// numerator and denominator are two of the numbers each item gave.
struct Metric {
  std::string task;  ///< name of its row: the task's, or of one part of it
  std::string name;
  int64_t first = 0, last = 0;
  int numerator = 0;
  int denominator = -1;  ///< −1: the number of items
  Transform transform = Transform::kPlain;
  double scale = 1;
  bool lower_is_better = false;
};

/// How intervals are drawn.
struct BootstrapOptions {
  int64_t resamples = 1000;  ///< 0: no interval
  uint64_t seed = 0;
};

/// The metric's row: value, n (the denominator's sum) and the 95 % interval of a percentile
/// bootstrap over items (Efron 1979). `items` holds the numbers of every item of the task. Throws
/// Error(kInternal) for a sum that is not finite, Error(kRequest) where the denominator is zero.
EvalRow summarize(const Metric& metric, std::span<const std::vector<double>> items,
                  const BootstrapOptions& options);

/// The metric over `items` beside what it is over `full`, numbers of the same items with the full
/// cache: a paired bootstrap, the same resamples as summarize() for both. Without resamples low and
/// high are the value.
Difference compare(const Metric& metric, std::span<const std::vector<double>> items,
                   std::span<const std::vector<double>> full, const BootstrapOptions& options);

}  // namespace ashlar
