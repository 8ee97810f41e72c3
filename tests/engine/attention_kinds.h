#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/base/rng.h"

namespace ashlar {

/// What tests of policies let queries give to rows.
enum class Attention { kRandom, kTies, kEqual, kBroken };

/// What a query gives a row in one buffer: multiples of 1/64, whose sums are exact.
inline float probability(Attention kind, int64_t query, int64_t row, int64_t buffer) {
  const auto index = static_cast<uint64_t>((query * 512 + row) * 16 + buffer);
  const uint64_t bits = Philox(17).bits(index);
  if (kind == Attention::kEqual) return 0.25f;
  if (kind == Attention::kBroken && bits % 97 == 0) return std::numeric_limits<float>::quiet_NaN();
  const uint64_t levels = kind == Attention::kTies ? 2 : 64;
  return static_cast<float>(bits % levels) / 64.0f;
}
/// What it adds to a score: one that is no number, nothing.
inline double added(float probability) {
  return std::isnan(probability) ? 0.0 : static_cast<double>(probability);
}

}  // namespace ashlar
