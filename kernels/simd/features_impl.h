#pragma once

// Included after one ISA header. Scores of digests. Contracts: kernels/kv_features.h.

#include "kernels/kv_features.h"
#include "kernels/simd/codec_impl.h"

namespace ashlar {
namespace {

/// n ≤ 16 numbers of a digest from number i on; zeros beyond.
ASHLAR_INLINE Vf digest_numbers(const std::byte* digest, bool half, int64_t i, int64_t n) {
  const int64_t bytes = half ? 2 : 4;
  const std::byte* p = digest + i * bytes;
  alignas(64) std::byte tail[64];
  if (n < kLanes) {
    __builtin_memset(tail, 0, sizeof(tail));
    __builtin_memcpy(tail, p, static_cast<size_t>(n * bytes));
    p = tail;
  }
  return half ? vload_half(p) : vload(reinterpret_cast<const float*>(p));
}

/// Σ_j q_j⁺·upper_j + q_j⁻·lower_j, which is Σ_j max(q_j·upper_j, q_j·lower_j).
float cuboid_score(const std::byte* digest, bool half, int64_t dim, const float* q) {
  Vf sum = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) {
    const Vf x = vload_span(q + i, n);
    sum = vfma(vmax(x, vzero()), digest_numbers(digest, half, i, n), sum);
    sum = vfma(vmin(x, vzero()), digest_numbers(digest, half, dim + i, n), sum);
  });
  return vsum(sum);
}

float sphere_score(const std::byte* digest, bool half, int64_t dim, const float* q, float norm) {
  Vf sum = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) {
    sum = vfma(vload_span(q + i, n), digest_numbers(digest, half, i, n), sum);
  });
  float radius = 0;
  if (half) {
    radius = half_value(load_u16(digest + 2 * dim));
  } else {
    __builtin_memcpy(&radius, digest + 4 * dim, sizeof(radius));
  }
  return vsum(sum) + radius * norm;
}

void digest_scores_kernel(const DigestShape& shape, const std::byte* digests, int64_t stride,
                          int64_t count, const float* q, float* scores) {
  const bool cuboid = shape.kind == DigestKind::kCuboidMax ||
                      shape.kind == DigestKind::kCuboidCentre ||
                      shape.kind == DigestKind::kCuboidMean;
  const float norm = cuboid ? 0.0f : __builtin_sqrtf(sum_squares(q, shape.dim));
  for (int64_t i = 0; i < count; ++i, digests += stride) {
    scores[i] = cuboid ? cuboid_score(digests, shape.half, shape.dim, q)
                       : sphere_score(digests, shape.half, shape.dim, q, norm);
  }
}

}  // namespace
}  // namespace ashlar
