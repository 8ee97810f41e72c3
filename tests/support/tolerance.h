#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>

// The four tolerance tiers of every comparison in the tests. A bound is never a bare literal: it is
// exact, derived from the arithmetic, derived from one code of a quantizer, or statistical.
namespace ashlar::test {

/// An allowed absolute error per element and the reason for it.
struct Bound {
  double absolute = 0;
  std::string reason;
};

/// Tier 1: the same bits.
inline Bound exact() { return {0, "exact"}; }

/// Tier 2: the same sum in another order. |error| ≤ c·K·eps·norm, where `terms` = K is the longest
/// chain of roundings, `norm` bounds Σ|a·b| of one output and `c` counts the chained operations.
template <typename Real>
Bound reordered(double terms, double norm, double c = 2) {
  constexpr double eps = std::numeric_limits<Real>::epsilon();
  return {c * terms * eps * norm,
          fmt::format("reordered: {}·K={}·eps={:.3g}·norm={:.4g}", c, terms, eps, norm)};
}

/// Tier 3: one code of a quantizer is off: |error| ≤ codes·step (+ slack for fp16 parameters).
inline Bound quantized(double step, double codes = 0.5, double slack = 0) {
  return {codes * step + slack,
          fmt::format("quantized: {} of step {:.4g} + {:.3g}", codes, step, slack)};
}

/// Tier 4: statistical; state seed, n and bound in `reason`.
inline Bound statistical(double absolute, uint64_t seed, int64_t n) {
  return {absolute, fmt::format("statistical: seed {}, n {}", seed, n)};
}

/// Compares element by element; a failure prints worst index, both values and the bound. NaN fails
/// unless both are NaN under `exact`.
template <typename A, typename B>
::testing::AssertionResult within(std::span<const A> actual, std::span<const B> expected,
                                  const Bound& bound) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure()
           << "sizes differ: " << actual.size() << " vs " << expected.size();
  }
  size_t worst = 0;
  double worst_error = -1;
  int64_t outside = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]), b = static_cast<double>(expected[i]);
    double error = std::abs(a - b);
    if (a == b || (bound.absolute == 0 && std::isnan(a) && std::isnan(b))) error = 0;
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > bound.absolute) ++outside;
    if (error > worst_error) {
      worst_error = error;
      worst = i;
    }
  }
  if (outside == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format(
             "{} of {} outside; worst at [{}]: actual {:.9g}, expected {:.9g}, error {:.4g} > "
             "bound "
             "{:.4g} ({})",
             outside, actual.size(), worst, static_cast<double>(actual[worst]),
             static_cast<double>(expected[worst]), worst_error, bound.absolute, bound.reason);
}

template <typename A, typename B>
::testing::AssertionResult within(const A& actual, const B& expected, const Bound& bound) {
  return within(std::span<const std::remove_cvref_t<decltype(*actual.data())>>(actual),
                std::span<const std::remove_cvref_t<decltype(*expected.data())>>(expected), bound);
}

/// ‖a − b‖₂ / ‖b‖₂ in double.
template <typename A, typename B>
double relative_l2(const A& actual, const B& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace ashlar::test
