#pragma once

#include <cstdint>
#include <vector>

namespace ashlar {

/// Words asked for in the frequent-words tasks.
inline constexpr int64_t kAsked = 3;

/// Counts of a zeta law (RULER's frequent words): rank k = 1 … ranks occurs
/// ⌊draws · k^−alpha / ζ(alpha)⌋ times. Rank 1 is the filler.
std::vector<int64_t> zeta_counts(int64_t draws, int64_t ranks, double alpha);
/// The largest `draws` whose counts sum to at most `room` ≥ 0.
int64_t zeta_draws(int64_t room, int64_t ranks, double alpha);
int64_t total(const std::vector<int64_t>& counts);
/// Whether ranks 2, 3, 4 have different counts and every later rank a smaller one: one right
/// answer.
bool ranked(const std::vector<int64_t>& counts);

}  // namespace ashlar
