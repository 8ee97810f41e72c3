#pragma once

#include <cstdint>
#include <vector>

#include "kernels/score_sums.h"

namespace ashlar::test {

/// What a call may collect.
struct Collected {
  /// Of `slots` slots, each from `start`.
  explicit Collected(int64_t slots, uint32_t start = 0)
      : low(static_cast<size_t>(slots)), high(low), counts(low.size(), start) {
    for (int64_t s = 0; s < slots; ++s) add_score(sums(), s, start);
  }
  ScoreSums sums() { return low.empty() ? ScoreSums{} : ScoreSums{low.data(), high.data()}; }
  std::vector<double> scores() const {
    std::vector<double> out;
    for (size_t s = 0; s < low.size(); ++s) out.push_back(score_value(low[s], high[s]));
    return out;
  }
  bool operator==(const Collected&) const = default;

  std::vector<uint32_t> low, high, counts;
  int64_t from = 0;
};

}  // namespace ashlar::test
