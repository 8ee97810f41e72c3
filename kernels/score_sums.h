#pragma once

#include <cstdint>

namespace ashlar {

/// Bits behind the point of a sum of probabilities.
inline constexpr int kScoreBits = 30;
inline constexpr double kScoreUnit = 0x1p-30;

/// Sums of probabilities, one per slot, as whole numbers of 2^-30: low + 2^32·high. Whole numbers
/// add up to the same whatever the order, so query rows, heads and layers may add to one sum as
/// they come. What is added is rounded once, by at most 2^-31.
struct ScoreSums {
  uint32_t* low = nullptr;  ///< null: nobody wants them
  uint32_t* high = nullptr;
};

/// A sum in units, and as a number.
inline uint64_t score_units(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
inline double score_value(uint32_t low, uint32_t high) {
  return kScoreUnit * static_cast<double>(score_units(low, high));
}

/// Adds a probability, or several at once, to the sum of one slot. p ≥ 0; NaN adds nothing.
void add_score(const ScoreSums& to, int64_t slot, double p);
/// Adds `slots` sums to others.
void add_scores(const ScoreSums& to, const ScoreSums& from, int64_t slots);
/// Likewise counts.
void add_counts(uint32_t* to, const uint32_t* from, int64_t slots);

}  // namespace ashlar
