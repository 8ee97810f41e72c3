#include "data/tasks/zeta.h"

#include <cmath>
#include <numeric>

namespace ashlar {

std::vector<int64_t> zeta_counts(int64_t draws, int64_t ranks, double alpha) {
  const double scale = static_cast<double>(draws) / std::riemann_zeta(alpha);
  std::vector<int64_t> counts;
  for (int64_t k = 1; k <= ranks; ++k) {
    counts.push_back(static_cast<int64_t>(scale * std::pow(static_cast<double>(k), -alpha)));
  }
  return counts;
}

int64_t zeta_draws(int64_t room, int64_t ranks, double alpha) {
  const auto fits = [&](int64_t draws) { return total(zeta_counts(draws, ranks, alpha)) <= room; };
  int64_t low = 0, high = room + 1;
  while (fits(high)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

int64_t total(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

bool ranked(const std::vector<int64_t>& counts) {
  for (size_t rank = 1; rank <= kAsked; ++rank) {
    const int64_t below = rank + 1 < counts.size() ? counts[rank + 1] : 0;
    if (counts[rank] <= below) return false;
  }
  return true;
}

}  // namespace ashlar
