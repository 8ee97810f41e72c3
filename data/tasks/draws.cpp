#include "data/tasks/draws.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/base/error.h"

namespace ashlar {

std::vector<int64_t> Draws::distinct(int64_t low, int64_t high, int64_t count) {
  ASHLAR_CHECK(count >= 0 && count <= high - low);
  // The first `count` steps of a Fisher–Yates shuffle whose untouched places hold themselves.
  std::unordered_map<int64_t, int64_t> moved;
  const auto at = [&](int64_t place) {
    const auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::vector<int64_t> out;
  for (int64_t i = low; i < low + count; ++i) {
    const int64_t j = between(i, high);
    out.push_back(at(j));
    moved[j] = at(i);
  }
  return out;
}

std::vector<int64_t> Draws::distinct_weighted(std::span<const double> weights, int64_t count) {
  ASHLAR_CHECK(count >= 0 && count <= static_cast<int64_t>(weights.size()));
  // A race of exponential clocks with rates ∝ weights arrives in the order of successive sampling
  // (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006).
  std::vector<std::pair<double, int64_t>> arrivals;
  for (size_t i = 0; i < weights.size(); ++i) {
    arrivals.emplace_back(-std::log1p(-uniform()) / weights[i], static_cast<int64_t>(i));
  }
  std::partial_sort(arrivals.begin(), arrivals.begin() + count, arrivals.end());
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(arrivals[static_cast<size_t>(i)].second);
  return out;
}

}  // namespace ashlar
