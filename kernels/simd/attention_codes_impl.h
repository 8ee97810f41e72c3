#pragma once

// Included after one ISA header. Products with codes in cells or pairs, in integers.

#include "kernels/simd/attention_numbers_impl.h"

namespace ashlar {
namespace {

/// The words of one query for one code of each byte, or a pair.
template <TileKind kKind>
ASHLAR_INLINE auto query_words(const int32_t* words, int64_t stride) {
  if constexpr (kKind == TileKind::kPairs) {
    return PairWords{iset(words[0])};
  } else if constexpr (kShortQueries<kKind>) {
    return short_words(words, stride);
  } else {
    return CellWords{iset(words[0]), iset(words[stride])};
  }
}

/// a[n][c] ← Q_n·codes, one step of C registers of keys; `left` elements remain. The step's words
/// of the first query begin at `words`.
template <TileKind kKind, int N, int C, typename Sum>
ASHLAR_INLINE void score_step(const int32_t* words, int64_t stride, const KeyBlock<C>& block,
                              int64_t step, int64_t left, Sum (&a)[N][C]) {
  constexpr int kCodes = kByteCodes<kKind>;
  Cells<kKind> keys[C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    keys[c] = key_cells<kKind>(block.keys[c], block.row[c], block.form, step, left);
  }
  unrolled<kCodes>([&](auto code) {
    decltype(keys[0].template codes<0>()) k[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) k[c] = keys[c].template codes<code.value>();
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const auto w = query_words<kKind>(words + code.value * kWords<kKind> * stride + n, stride);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = dot(a[n][c], k[c], w);
    }
  });
}

/// The weights of the rows of one step from row j on: of a pair, or of a cell.
template <TileKind kKind>
ASHLAR_INLINE auto value_weights(const int16_t* weights, int64_t j) {
  if constexpr (kKind == TileKind::kPairs) {
    int32_t pair = 0;
    __builtin_memcpy(&pair, weights + j, sizeof(pair));
    return PairWords{iset(pair)};
  } else {
    return load_weights<kAttentionPair>(weights, j);
  }
}

/// acc_n ← acc_n·alpha_n + w_n·Σ_j W_{n,j}·code_j, for N queries (from query n0 of the block on)
/// and S steps of codes; kTail: one that fewer elements fill. Rows that nobody sees have weight 0.
template <TileKind kKind, int N, int S, bool kTail>
ASHLAR_INLINE void accumulate_codes(const QueryBlock& b, int n0, const Tile& tile, int64_t step,
                                    float* acc, int64_t stride) {
  constexpr int R = kValueRegisters<kKind>, C = S * R, kElements = R * kLanes;
  constexpr int kRows = kValueRows<kKind>;
  const int64_t left = kTail ? tile.value_dim - step * kElements : kElements;
  // Copies, as in KeyBlock.
  const int64_t stride_of_row = tile.value_stride, second = tile.value_high;
  const int64_t behind = second - step * kValueBytes<kKind> / 2;  // of the second plane's cells
  const Ahead how = tile.ahead;
  typename SumOf<kKind>::Type a[N][C];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) clear(a[n][c]);
  }
  for (int64_t j = b.live.begin & ~int64_t{kRows - 1}; j < b.live.end;) {
    const std::byte* rows = tile.at->values[j / kLanes] + j % kLanes * tile.value_stride;
    const int64_t border = (j / kLanes + 1) * kLanes;
    const int64_t end = border < b.live.end ? border : b.live.end;
    const std::byte* ahead = values_ahead(tile, j, step * kValueBytes<kKind>);
    for (; j < end; j += kRows, rows += kRows * stride_of_row) {
      fetch_values<kKind, S * kValueBytes<kKind>>(how, ahead, kRows * stride_of_row, behind);
      decltype(Cells<kKind>{}.template codes<0>()) v[C];
#pragma GCC unroll 16
      for (int s = 0; s < S; ++s) {
        const auto cells = value_cells<kKind>(rows, second, step + s, left);
        unrolled<R>([&](auto r) { v[s * R + r.value] = cells.template codes<r.value>(); });
      }
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const auto w = value_weights<kKind>(b.weights[n0 + n], j);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) a[n][c] = dot(a[n][c], v[c], w);
      }
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vf alpha = vset(b.alpha[n0 + n]), unit = vset(b.weight_unit[n0 + n]);
#pragma GCC unroll 16
    for (int c = 0; c < C; c += R) {
      Vf sum[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r] = vfrom_int(total(a[n][c + r]));
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
