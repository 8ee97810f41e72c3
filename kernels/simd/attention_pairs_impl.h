#pragma once

// Included after one ISA header. Products with codes in pairs, in integers.

#include "kernels/simd/attention_numbers_impl.h"

namespace ashlar {
namespace {

/// a[n][c] ← Q_n·codes, one step of C registers of keys; `left` elements remain.
template <TileKind kKind, int N, int C>
ASHLAR_INLINE void score_step(const QueryBlock& b, const Tile& tile, int64_t block, int64_t step,
                              int64_t left, Vi (&a)[N][C]) {
  constexpr int kPairs = kKeyPairs<kKind>;
  KeyStep<kKind> keys[C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) keys[c].load(tile.at.keys[block + c], tile.key_stride, step, left);
  unrolled<kPairs>([&](auto e) {
    const int32_t* query = b.pairs + (step * kPairs + e.value) * b.q_stride;
    Vi k[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) k[c] = keys[c].template pair<e.value>();
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vi q = iset(query[n]);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = idot2(a[n][c], k[c], q);
    }
  });
}

/// Two weights of a query for two neighbouring rows.
ASHLAR_INLINE Vi weight_pair(const int16_t* weights) {
  int32_t pair = 0;
  __builtin_memcpy(&pair, weights, sizeof(pair));
  return iset(pair);
}

/// acc_n ← acc_n·alpha_n + w_n·Σ_j W_{n,j}·code_j, for N queries (from query n0 of the block on)
/// and S steps of codes; kTail: one that fewer elements fill. Rows that nobody sees have weight 0.
template <TileKind kKind, int N, int S, bool kTail>
ASHLAR_INLINE void accumulate_codes(const QueryBlock& b, int n0, const Tile& tile, int64_t step,
                                    float* acc, int64_t stride) {
  constexpr int R = kValueRegisters<kKind>, C = S * R, kElements = R * kLanes;
  const int64_t left = kTail ? tile.value_dim - step * kElements : kElements;
  Vi a[N][C];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) clear(a[n][c]);
  }
  constexpr int kRows = kValueRows<kKind>;
  for (int64_t j = b.live.begin & ~int64_t{kRows - 1}; j < b.live.end;) {
    const std::byte* rows = tile.at.values[j / kLanes] + j % kLanes * tile.value_stride;
    const int64_t border = (j / kLanes + 1) * kLanes;
    const int64_t end = border < b.live.end ? border : b.live.end;
    for (; j < end; j += kRows, rows += kRows * tile.value_stride) {
      fetch_value<S * kValueBytes<kKind>>(tile, j, step * kValueBytes<kKind>);
      ValueStep<kKind> values[S];
#pragma GCC unroll 16
      for (int s = 0; s < S; ++s) values[s].load(rows, tile.value_high, step + s, left);
      unrolled<kRows / 2>([&](auto pair) {
        Vi v[C];
        unrolled<R>([&](auto r) {
#pragma GCC unroll 16
          for (int s = 0; s < S; ++s) {
            v[s * R + r.value] = values[s].template pair<pair.value, r.value>();
          }
        });
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
          const Vi weights = weight_pair(b.weights[n0 + n] + j + 2 * pair.value);
#pragma GCC unroll 16
          for (int c = 0; c < C; ++c) a[n][c] = idot2(a[n][c], v[c], weights);
        }
      });
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vf alpha = vset(b.alpha[n0 + n]), unit = vset(b.weight_unit[n0 + n]);
#pragma GCC unroll 16
    for (int c = 0; c < C; c += R) {
      Vf sum[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r] = vfrom_int(a[n][c + r]);
      from_lanes<R>(sum);
      float* to = acc + n * stride + c * kLanes;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r, to += kLanes) {
        vstore(to, vfma(sum[r], unit, vmul(vload(to), alpha)));
      }
    }
  }
}

}  // namespace
}  // namespace ashlar
