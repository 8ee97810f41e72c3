#pragma once

#include <array>
#include <cstdint>

namespace ashlar {

/// Counter-based generator Philox4x32-10 (Salmon et al., SC 2011): the value at an index is a pure
/// function of (seed, stream, index), so results never depend on threads, ranks or resume points.
class Philox {
 public:
  explicit Philox(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  /// Four independent 32-bit words for `index`.
  std::array<uint32_t, 4> block(uint64_t index) const;
  /// 64 uniform bits for `index`.
  uint64_t bits(uint64_t index) const;
  /// Uniform in [0, 1) with 53 bits for `index`.
  double uniform(uint64_t index) const;
  /// Standard normal for `index` (Box–Muller, one of the pair).
  double normal(uint64_t index) const;
  /// Uniform integer in [0, bound), bound ≥ 1, by multiplication of 64 bits (bias < bound/2^64).
  uint64_t below(uint64_t index, uint64_t bound) const;

 private:
  uint64_t seed_;
  uint64_t stream_;
};

}  // namespace ashlar
