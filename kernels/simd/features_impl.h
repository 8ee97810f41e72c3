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

/// Q queries at once, so that a digest is decoded once for them and their sums do not wait for one
/// another; each query's operations are those of Q = 1.
/// Σ_j q_j⁺·upper_j + q_j⁻·lower_j, which is Σ_j max(q_j·upper_j, q_j·lower_j).
template <int Q>
void cuboid_scores(const std::byte* digest, bool half, int64_t dim, const float* q, float* scores) {
  Vf sums[Q];
  for (Vf& sum : sums) sum = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) {
    const Vf upper = digest_numbers(digest, half, i, n);
    const Vf lower = digest_numbers(digest, half, dim + i, n);
    for (int h = 0; h < Q; ++h) {
      const Vf x = vload_span(q + h * dim + i, n);
      sums[h] = vfma(vmax(x, vzero()), upper, sums[h]);
      sums[h] = vfma(vmin(x, vzero()), lower, sums[h]);
    }
  });
  for (int h = 0; h < Q; ++h) scores[h] = vsum(sums[h]);
}

template <int Q>
void sphere_scores(const std::byte* digest, bool half, int64_t dim, const float* q,
                   const float* norms, float* scores) {
  Vf sums[Q];
  for (Vf& sum : sums) sum = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) {
    const Vf centre = digest_numbers(digest, half, i, n);
    for (int h = 0; h < Q; ++h) sums[h] = vfma(vload_span(q + h * dim + i, n), centre, sums[h]);
  });
  float radius = 0;
  if (half) {
    radius = half_value(load_u16(digest + 2 * dim));
  } else {
    __builtin_memcpy(&radius, digest + 4 * dim, sizeof(radius));
  }
  for (int h = 0; h < Q; ++h) scores[h] = vsum(sums[h]) + radius * norms[h];
}

/// The first Q of the `queries` whose scores lie side by side.
template <int Q>
void digest_scores_of(const DigestShape& shape, const std::byte* digests, int64_t stride,
                      int64_t count, const float* q, int64_t queries, float* scores) {
  const bool cuboid = shape.kind == DigestKind::kCuboidMax ||
                      shape.kind == DigestKind::kCuboidCentre ||
                      shape.kind == DigestKind::kCuboidMean;
  float norms[Q];
  for (int h = 0; h < Q; ++h) {
    norms[h] = cuboid ? 0.0f : __builtin_sqrtf(sum_squares(q + h * shape.dim, shape.dim));
  }
  for (int64_t i = 0; i < count; ++i, digests += stride, scores += queries) {
    if (cuboid) {
      cuboid_scores<Q>(digests, shape.half, shape.dim, q, scores);
    } else {
      sphere_scores<Q>(digests, shape.half, shape.dim, q, norms, scores);
    }
  }
}

void digest_scores_kernel(const DigestShape& shape, const std::byte* digests, int64_t stride,
                          int64_t count, const float* q, int64_t queries, float* scores) {
  for (int64_t h = 0; h < queries;) {
    const float* of = q + h * shape.dim;
    float* to = scores + h;
    switch (queries - h) {
      case 1:
        digest_scores_of<1>(shape, digests, stride, count, of, queries, to);
        h += 1;
        break;
      case 2:
        digest_scores_of<2>(shape, digests, stride, count, of, queries, to);
        h += 2;
        break;
      case 3:
        digest_scores_of<3>(shape, digests, stride, count, of, queries, to);
        h += 3;
        break;
      default:
        digest_scores_of<4>(shape, digests, stride, count, of, queries, to);
        h += 4;
    }
  }
}

}  // namespace
}  // namespace ashlar
