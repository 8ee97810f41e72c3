#pragma once

// Included after one ISA header. A block of a few queries that see the same slots of a tile: they
// share every load of it. How many are taken together changes no chain of operations and so no bit.
//   s_j = scale·(step_j·Σ_i q_i·code_{j,i} + min_j·Σ_i q_i), i ascending;
//   acc_i += Σ_j (p_j·step_j)·code_{j,i}, j ascending, and beside it base += Σ_j p_j·min_j.

#include "kernels/simd/attention_tile_impl.h"

namespace ashlar {
namespace {

/// The slots [begin, end) of a tile that a row sees; end ≤ begin: none.
struct Span {
  int64_t begin;
  int64_t end;
};

/// The online softmax of some queries, one entry per query.
struct SoftmaxState {
  float* max;
  float* sum;
  float* base;  ///< Σ p_j·min_j, which every element of acc lacks
  float* acc;   ///< [queries, stride]
  int64_t stride;
};

/// The queries of a chunk of rows, element by element, so that one pointer serves a block of them.
struct PackedQueries {
  float* q;        ///< [key_dim, stride]
  int64_t stride;  ///< queries
  float* sum;      ///< Σ_i q_i of each
};

struct QueryBlock {
  const float* q;  ///< element 0 of the first query; element i is i·q_stride floats on
  int64_t q_stride;
  float sum[kQueryBlock];  ///< Σ_i q_i
  float* p[kQueryBlock];   ///< 64 each: scaled scores, then probabilities before normalisation
  float alpha[kQueryBlock];
  alignas(64) float weights[kQueryBlock][kAttentionTile];  ///< of the values: p, or p·step
  int64_t first;  ///< index of the first query; the others follow
  Span live;
};

/// a[n][c] ← q_n·element, one step of C registers of keys.
template <CodecKind kKind, int N, int C>
ASHLAR_INLINE void score_step(const QueryBlock& b, const Tile& tile, int64_t block, int64_t step,
                              int64_t left, Vf (&a)[N][C]) {
  constexpr int kElements = kKeyElements<kKind>;
  KeyStep<kKind> keys[C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) keys[c].load(tile.keys[block + c], tile.key_stride, step, left);
  unrolled<kElements>([&](auto e) {
    if (kElements > 1 && e.value >= left) return;
    const float* query = b.q + (step * kElements + e.value) * b.q_stride;
    Vf k[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) k[c] = keys[c].template element<e.value>();
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vf q = vset(query[n]);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = vfma(q, k[c], a[n][c]);
    }
  });
}

/// Steps of a loop over keys between two fetches of lines of the next tile.
constexpr int64_t kFetchSteps = 2;

/// Likewise rows of values, a divisor of 16.
constexpr int64_t kFetchRows = 4;

/// Scaled scores of N queries against the tile; −infinity outside `live`.
template <CodecKind kKind, int N>
ASHLAR_INLINE void tile_scores(const QueryBlock& b, const Tile& tile, int64_t dim, float scale,
                               Ahead& ahead) {
  constexpr int C = kQueryColumns, kElements = kKeyElements<kKind>;
  for (int64_t block = 0; block < kTileBlocks; block += C) {
    Vf a[N][C];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = vzero();
    }
    const int64_t whole = dim / kElements;
    for (int64_t step = 0; step < whole;) {
      const int64_t end = step + kFetchSteps < whole ? step + kFetchSteps : whole;
      ahead.fetch(end - step);
      for (; step < end; ++step) score_step<kKind, N, C>(b, tile, block, step, kElements, a);
    }
    if (whole * kElements < dim) {
      score_step<kKind, N, C>(b, tile, block, whole, dim - whole * kElements, a);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const int64_t j = (block + c) * kLanes;
        if (tile.key.affine) {
          const Vf base = vmul(vload(tile.key.min + j), vset(b.sum[n]));
          a[n][c] = vfma(vload(tile.key.step + j), a[n][c], base);
        }
        vstore(b.p[n] + j, vmul(a[n][c], vset(scale)));
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int64_t j = 0; j < b.live.begin; ++j) b.p[n][j] = -__builtin_inff();
    for (int64_t j = b.live.end; j < kAttentionTile; ++j) b.p[n][j] = -__builtin_inff();
  }
}

/// Σ over the tile in a fixed order: four registers, then their tree.
ASHLAR_INLINE float sum_blocks(const Vf (&v)[kTileBlocks]) {
  return vsum(vadd(vadd(v[0], v[1]), vadd(v[2], v[3])));
}

/// Turns the scores of N queries into probabilities before normalisation, the factors that rescale
/// what came before, and the weights of the values.
template <int N>
ASHLAR_INLINE void block_softmax(const SoftmaxState& s, const Tile& tile, QueryBlock& b) {
  alignas(64) float seen_min[kAttentionTile];
  const float* min = tile.value.min;
  if (tile.value.affine && (b.live.begin > 0 || b.live.end < tile.place.rows)) {
    for (int64_t j = 0; j < kAttentionTile; ++j) {
      seen_min[j] = j >= b.live.begin && j < b.live.end ? min[j] : 0.0f;
    }
    min = seen_min;
  }
  // One exponential for the factors of all queries.
  alignas(64) float drop[kLanes] = {};
  float* state = s.max + b.first;
  for (int n = 0; n < N; ++n) {
    Vf top = vload(b.p[n]);
    for (int64_t c = 1; c < kTileBlocks; ++c) top = vmax(top, vload(b.p[n] + c * kLanes));
    const float tile_max = vmax_all(top), old_max = state[n];
    const float new_max = tile_max > old_max ? tile_max : old_max;
    drop[n] = old_max - new_max;
    state[n] = new_max;
  }
  vstore(drop, vexp(vload(drop)));
  for (int n = 0; n < N; ++n) {
    const int64_t query = b.first + n;
    const Vf max = vset(s.max[query]);
    Vf v[kTileBlocks];
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      v[c] = vexp(vsub(vload(b.p[n] + c * kLanes), max));
      vstore(b.p[n] + c * kLanes, v[c]);
      const Vf w = tile.value.affine ? vmul(v[c], vload(tile.value.step + c * kLanes)) : v[c];
      vstore(b.weights[n] + c * kLanes, w);
    }
    b.alpha[n] = drop[n];
    s.sum[query] = s.sum[query] * drop[n] + sum_blocks(v);
    float base = 0.0f;
    if (tile.value.affine) {
      for (int64_t c = 0; c < kTileBlocks; ++c) v[c] = vmul(v[c], vload(min + c * kLanes));
      base = sum_blocks(v);
    }
    s.base[query] = s.base[query] * drop[n] + base;
  }
}

/// acc_n ← acc_n·alpha_n + Σ_j weight_n,j·code_j for N queries (from query n0 of the block on) and
/// S steps of the value; kTail: one step that fewer elements fill.
template <CodecKind kKind, int N, int S, bool kTail>
ASHLAR_INLINE void accumulate(const QueryBlock& b, int n0, const Tile& tile, int64_t step,
                              float* acc, int64_t stride, Ahead& ahead) {
  constexpr int R = kValueRegisters<kKind>, C = S * R, kElements = R * kLanes;
  const int64_t left = kTail ? tile.value_dim - step * kElements : kElements;
  Vf a[N][C];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      a[n][c] = vmul(vload(acc + n * stride + c * kLanes), vset(b.alpha[n0 + n]));
    }
#pragma GCC unroll 16
    for (int c = 0; c < C; c += R) to_lanes<R>(&a[n][c]);
  }
  for (int64_t j = b.live.begin; j < b.live.end;) {
    const std::byte* row = tile.values[j / kLanes] + j % kLanes * tile.value_stride;
    const int64_t border = (j / kFetchRows + 1) * kFetchRows;
    const int64_t end = border < b.live.end ? border : b.live.end;
    ahead.fetch(end - j);
    for (; j < end; ++j, row += tile.value_stride) {
      Vf v[C];
#pragma GCC unroll 16
      for (int s = 0; s < S; ++s) {
        load_value<kKind>(row, row + tile.value_high, step + s, left, &v[s * R]);
      }
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const Vf weight = vset(b.weights[n0 + n][j]);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) a[n][c] = vfma(weight, v[c], a[n][c]);
      }
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; c += R) from_lanes<R>(&a[n][c]);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) vstore(acc + n * stride + c * kLanes, a[n][c]);
  }
}

/// The whole width of N values' accumulators.
template <CodecKind kKind, int N>
ASHLAR_INLINE void accumulate_all(const QueryBlock& b, int n0, const Tile& tile, float* acc,
                                  int64_t stride, Ahead& ahead) {
  constexpr int R = kValueRegisters<kKind>, kElements = R * kLanes;
  constexpr int S = R < kQueryColumns ? kQueryColumns / R : 1;
  const int64_t whole = tile.value_dim / kElements;
  int64_t step = 0;
  for (; step + S <= whole; step += S) {
    accumulate<kKind, N, S, false>(b, n0, tile, step, acc + step * kElements, stride, ahead);
  }
  for (; S > 1 && step < whole; ++step) {
    accumulate<kKind, N, 1, false>(b, n0, tile, step, acc + step * kElements, stride, ahead);
  }
  if (whole * kElements < tile.value_dim) {
    accumulate<kKind, N, 1, true>(b, n0, tile, step, acc + step * kElements, stride, ahead);
  }
}

/// The most of n queries, a divisor of n, whose steps of `registers` fit the register block.
constexpr int queries_at_once(int n, int registers) {
  int m = n;
  while (m > 1 && (n % m != 0 || m * registers > kQueryBlock * kQueryColumns)) --m;
  return m;
}

/// N queries against one tile.
template <int N>
void attend_block(const AttentionTask& task, const SoftmaxState& s, const Tile& tile, QueryBlock& b,
                  Ahead& ahead) {
  with_codec(tile.key_kind, [&](auto tag) {
    tile_scores<decltype(tag)::value, N>(b, tile, task.key_dim, task.scale, ahead);
  });
  block_softmax<N>(s, tile, b);
  with_codec(tile.value_kind, [&](auto tag) {
    constexpr CodecKind kKind = decltype(tag)::value;
    // Where one step fills more registers than a query may have, one query at a time.
    constexpr int M = kValueRegisters < kKind >> kQueryColumns ? 1 : N;
    float* acc = s.acc + b.first * s.stride;
    for (int n = 0; n < N; n += M) {
      accumulate_all<kKind, M>(b, n, tile, acc + n * s.stride, s.stride, ahead);
    }
  });
}

/// The block of n queries, 1 ≤ n ≤ kQueryBlock.
ASHLAR_INLINE void attend_queries(int n, const AttentionTask& task, const SoftmaxState& s,
                                  const Tile& tile, QueryBlock& b, Ahead& ahead) {
  if (n == 1) return attend_block<1>(task, s, tile, b, ahead);
  if constexpr (kQueryBlock >= 4) {
    if (n == 2) return attend_block<2>(task, s, tile, b, ahead);
    if (n == 3) return attend_block<3>(task, s, tile, b, ahead);
  }
  attend_block<kQueryBlock>(task, s, tile, b, ahead);
}

}  // namespace
}  // namespace ashlar
