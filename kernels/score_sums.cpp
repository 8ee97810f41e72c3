#include "kernels/score_sums.h"

#include <cmath>

namespace ashlar {

void add_score(const ScoreSums& to, int64_t slot, double p) {
  const double units = std::nearbyint(p / kScoreUnit);
  if (!(units > 0 && units < 0x1p63)) return;
  const uint64_t after = score_units(to.low[slot], to.high[slot]) + static_cast<uint64_t>(units);
  to.low[slot] = static_cast<uint32_t>(after);
  to.high[slot] = static_cast<uint32_t>(after >> 32);
}

void add_scores(const ScoreSums& to, const ScoreSums& from, int64_t slots) {
  for (int64_t i = 0; i < slots; ++i) {
    const uint32_t low = to.low[i] + from.low[i];
    to.high[i] += from.high[i] + (low < from.low[i] ? 1 : 0);
    to.low[i] = low;
  }
}

void add_counts(uint32_t* to, const uint32_t* from, int64_t slots) {
  for (int64_t i = 0; i < slots; ++i) to[i] += from[i];
}

}  // namespace ashlar
