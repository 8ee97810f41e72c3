#pragma once

// Included after one ISA header. Products with keys and values that are numbers, in floats.

#include "kernels/simd/attention_query_impl.h"

namespace ashlar {
namespace {

/// Scores of query n and the keys from slot j on, of what a loop over their elements has summed up.
template <TileKind kKind>
ASHLAR_INLINE Vf score_of(const QueryBlock&, const Tile&, int, int64_t, Vf sum, float scale) {
  return vmul(sum, vset(scale));
}
template <TileKind kKind, typename Sum>
ASHLAR_INLINE Vf score_of(const QueryBlock& b, const Tile& tile, int n, int64_t j, Sum sum, float) {
  const Vf base = vmul(vload(tile.key.min + j), vset(b.sum[n]));
  const Vf codes = vfrom_int(total(sum)), unit = vset(b.unit[n]);
  // Pairs may be of either rounding; of the finer one nothing is left.
  constexpr bool kFine = kKind == TileKind::kQ8;
  const Vf product = kFine ? vmul(codes, unit) : vfma(codes, unit, vset(b.rest[n]));
  return vfma(vload(tile.key.step + j), product, base);
}

/// Bytes of a register of numbers of one value, or a step of the codes of several.
template <TileKind kKind>
constexpr int kValueBytes = kLanes*(kKind == TileKind::kF16 || kKind == TileKind::kBF16 ? 2 : 4);

/// a[n][c] ← q_n·element, one step of C registers of keys.
template <TileKind kKind, int N, int C>
ASHLAR_INLINE void score_step(const float* query, int64_t, const KeyBlock<C>& block, int64_t step,
                              int64_t, Vf (&a)[N][C]) {
  Vf k[C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    k[c] = key_numbers<kKind>(block.keys[c], block.form.stride, step);
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vf q = vset(query[n]);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) a[n][c] = vfma(q, k[c], a[n][c]);
  }
}

/// acc_n ← acc_n·alpha_n + Σ_j p_{n,j}·v_j for N queries (from query n0 of the block on) and C
/// registers of numbers; kTail: one that fewer elements fill.
template <TileKind kKind, int N, int C, bool kTail>
ASHLAR_INLINE void accumulate_numbers(const QueryBlock& b, int n0, const Tile& tile, int64_t step,
                                      float* acc, int64_t stride) {
  const int64_t left = kTail ? tile.value_dim - step * kLanes : kLanes;
  // Copies, as in KeyBlock.
  const int64_t stride_of_row = tile.value_stride;
  const Ahead how = tile.ahead;
  Vf a[N][C];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      a[n][c] = vmul(vload(acc + n * stride + c * kLanes), vset(b.alpha[n0 + n]));
    }
  }
  for (int64_t j = b.live.begin; j < b.live.end;) {
    const std::byte* row = tile.at->values[j / kLanes] + j % kLanes * tile.value_stride;
    const int64_t border = (j / kLanes + 1) * kLanes;
    const int64_t end = border < b.live.end ? border : b.live.end;
    const std::byte* ahead = values_ahead(tile, j, step * kValueBytes<kKind>);
    for (; j < end; ++j, row += stride_of_row) {
      fetch_values<kKind, C * kValueBytes<kKind>>(how, ahead, stride_of_row);
      Vf v[C];
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) v[c] = value_numbers<kKind>(row, step + c, left);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const Vf weight = vset(b.p[n0 + n][j]);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) a[n][c] = vfma(weight, v[c], a[n][c]);
      }
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) vstore(acc + n * stride + c * kLanes, a[n][c]);
  }
}

}  // namespace
}  // namespace ashlar
