#pragma once

// Included after one ISA header. Scores of digests. Contracts: kernels/kv_features.h.

#include "kernels/kv_features.h"
#include "kernels/simd/attention_query_impl.h"

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

/// Where the weights of coded digests lie in scratch: rounded numbers, their words, u and Σ of each
/// vector.
struct CodedWeights {
  int64_t stride;  ///< words of a vector
  int16_t* rounded;
  int32_t* words;  ///< [vectors, stride], two for each cell
  float* unit;
  float* sum;
};
CodedWeights coded_weights(const CodedDigests& d, const float* weights, std::byte* scratch) {
  CodedWeights w;
  w.stride = pad16(d.dim) / 2;
  w.rounded = reinterpret_cast<int16_t*>(scratch);
  w.words = reinterpret_cast<int32_t*>(w.rounded + pad16(d.dim));
  w.unit = reinterpret_cast<float*>(w.words + d.vectors * w.stride);
  w.sum = w.unit + d.vectors;
  for (int64_t v = 0; v < d.vectors; ++v, weights += d.dim) {
    w.unit[v] = round_numbers(weights, d.dim, query_levels(d.dim), w.rounded).unit;
    w.sum[v] = sum_elements(weights, d.dim);
    for (int64_t i = 0; i < d.dim; i += kLanes) {
      cell_words<1>(w.rounded + i, w.words + v * w.stride + i / 2, 1);
    }
  }
  return w;
}

/// Adds V vectors from vector v of a block on to the scores of its sixteen digests; the next block
/// begins `stride` bytes behind it.
template <int V>
ASHLAR_INLINE Vf add_coded(const CodedDigests& d, const CodedWeights& w, const std::byte* block,
                           int64_t stride, int64_t v, Vf scores) {
  const int64_t rows = kCodedDigests, parameters = 4 * rows;
  const int64_t bytes = parameters + rows * d.dim, whole = d.dim / kCellUnits;
  const KeyForm form{rows * kCellUnits, 0, {rows * kCellUnits * whole, 0}};
  const std::byte* const side = block + v * bytes;
  const int32_t* words = w.words + v * w.stride;
  CellSum sums[V];
#pragma GCC unroll 16
  for (int i = 0; i < V; ++i) clear(sums[i]);
  // Lines of the next block are fetched meanwhile.
  const std::byte* const ahead = side + stride + parameters;
  const auto step = [&](int64_t t, int64_t left) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i) {
      __builtin_prefetch(ahead + i * bytes + t * rows * kCellUnits, 0, 2);
      const auto cells = key_cells<TileKind::kQ8>(side + i * bytes + parameters, 0, form, t, left);
      const int32_t* of = words + i * w.stride + t * 2;
      sums[i] = cell_dot(sums[i], cells.template codes<0>(), {iset(of[0]), iset(of[1])});
    }
  };
  for (int64_t t = 0; t < whole; ++t) step(t, kCellUnits);
  if (whole * kCellUnits < d.dim) step(whole, d.dim % kCellUnits);
#pragma GCC unroll 16
  for (int i = 0; i < V; ++i) {
    const Vf min = vload_half(side + i * bytes), scale = vload_half(side + i * bytes + 2 * rows);
    const Vf product = vmul(vfrom_int(cell_total(sums[i])), vset(w.unit[v + i]));
    scores = vfma(scale, product, vfma(min, vset(w.sum[v + i]), scores));
  }
  return scores;
}

void coded_dots_kernel(const CodedDigests& d, const std::byte* blocks, int64_t stride,
                       int64_t count, const float* weights, float* dots, std::byte* scratch) {
  const CodedWeights w = coded_weights(d, weights, scratch);
  for (int64_t i = 0; i < count; i += kCodedDigests, blocks += stride) {
    Vf scores = vzero();
    int64_t v = 0;
    for (; v + 4 <= d.vectors; v += 4) scores = add_coded<4>(d, w, blocks, stride, v, scores);
    for (; v + 2 <= d.vectors; v += 2) scores = add_coded<2>(d, w, blocks, stride, v, scores);
    for (; v < d.vectors; ++v) scores = add_coded<1>(d, w, blocks, stride, v, scores);
    const int64_t n = count - i < kLanes ? count - i : kLanes;
    vstore_span(dots + i, n, scores);
  }
}

static_assert(kCodedDigests == kLanes);

}  // namespace
}  // namespace ashlar
