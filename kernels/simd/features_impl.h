#pragma once

// Included after one ISA header. Scores of digests. Contracts: kernels/kv_features.h.

#include "kernels/kv_features.h"
#include "kernels/simd/codec_impl.h"

namespace ashlar {
namespace {

/// n ≤ 16 numbers of a row of digests from number i on; zeros beyond.
ASHLAR_INLINE Vf load_numbers(const std::byte* row, bool half, int64_t i, int64_t n) {
  const int64_t bytes = half ? 2 : 4;
  const std::byte* p = row + i * bytes;
  alignas(64) std::byte tail[64];
  if (n < kLanes) {
    __builtin_memset(tail, 0, sizeof(tail));
    __builtin_memcpy(tail, p, static_cast<size_t>(n * bytes));
    p = tail;
  }
  return half ? vload_half(p) : vload(reinterpret_cast<const float*>(p));
}

/// `count` rows of numbers with the weights of Q of the `queries` whose scores lie side by side, so
/// that a row is decoded once for them. Each query's operations are those of Q = 1.
template <int Q>
void digest_dots_of(bool half, int64_t numbers, const std::byte* rows, int64_t stride,
                    int64_t count, const float* weights, int64_t queries, float* scores) {
  for (int64_t i = 0; i < count; ++i, rows += stride, scores += queries) {
    Vf sums[Q];
    for (Vf& sum : sums) sum = vzero();
    for_spans(numbers, [&](int64_t j, int64_t n) {
      const Vf x = load_numbers(rows, half, j, n);
      for (int h = 0; h < Q; ++h) {
        sums[h] = vfma(vload_span(weights + h * numbers + j, n), x, sums[h]);
      }
    });
    for (int h = 0; h < Q; ++h) scores[h] = vsum(sums[h]);
  }
}

void digest_dots_kernel(bool half, int64_t numbers, const std::byte* rows, int64_t stride,
                        int64_t count, const float* weights, int64_t queries, float* scores) {
  for (int64_t h = 0; h < queries;) {
    const float* of = weights + h * numbers;
    float* to = scores + h;
    switch (queries - h) {
      case 1:
        digest_dots_of<1>(half, numbers, rows, stride, count, of, queries, to);
        h += 1;
        break;
      case 2:
        digest_dots_of<2>(half, numbers, rows, stride, count, of, queries, to);
        h += 2;
        break;
      case 3:
        digest_dots_of<3>(half, numbers, rows, stride, count, of, queries, to);
        h += 3;
        break;
      default:
        digest_dots_of<4>(half, numbers, rows, stride, count, of, queries, to);
        h += 4;
    }
  }
}

}  // namespace
}  // namespace ashlar
