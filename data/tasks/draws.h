#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/base/rng.h"

namespace ashlar {

/// The random numbers of one example: the n-th draw is a pure function of (seed, task, example, n).
class Draws {
 public:
  /// `task` is a number of the generator's own, so that two tasks of one seed are independent.
  Draws(uint64_t seed, uint64_t task, uint64_t example)
      : random_(Philox(seed, task).bits(example), example) {}

  /// Uniform in [0, bound), bound ≥ 1.
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_.below(next_++, static_cast<uint64_t>(bound)));
  }
  /// Uniform in [low, high).
  int64_t between(int64_t low, int64_t high) { return low + below(high - low); }
  /// Uniform in [0, 1).
  double uniform() { return random_.uniform(next_++); }

  /// `count` different integers of [low, high), in random order.
  std::vector<int64_t> distinct(int64_t low, int64_t high, int64_t count);
  /// `count` different indices, each next one drawn with probability ∝ weight among those left
  /// (successive sampling). In the order drawn.
  std::vector<int64_t> distinct_weighted(std::span<const double> weights, int64_t count);

  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }

 private:
  Philox random_;
  uint64_t next_ = 0;
};

}  // namespace ashlar
