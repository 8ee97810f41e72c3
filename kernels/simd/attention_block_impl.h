#pragma once

// Included after one ISA header. A block of a few queries that see the same slots of a tile: they
// share every load of it. How many are taken together changes no chain of operations and so no bit.
//   s_j = scale·Σ_i q_i·k_{j,i}, acc_i += Σ_j p_j·v_{j,i}, i and j ascending.
// Of codes (x = min + step·code) the products are integers: queries and the weights p·step are
// rounded, per query and per tile, and sums of products with codes are exact, in any order:
//   q_i ≈ u·Q_i:            s_j = step_j·scale·(u·Σ_i Q_i·code_{j,i} + m·Σ_i (q_i − u·Q_i))
//                               + min_j·(scale·Σ_i q_i);
//   p_j·step_j ≈ w·W_j:     acc_i += w·Σ_j W_j·code_{j,i}, and beside it base += Σ_j p_j·min_j.
// Weights, and queries of q8, have 16 bits: the error is half of 1/32639 of the largest per code,
// 1/128 of what q8 lost. Queries of codes of at most four bits have 8: half of 1/127 of the largest
// element, for each step that a code is off the middle m of all codes (docs/adr/0026).

#include "kernels/simd/attention_codes_impl.h"

namespace ashlar {
namespace {

/// Registers that the sums of a loop over elements of a kind may take.
template <TileKind kKind>
constexpr int kSums = TileTag<kKind>::numbers ? kQueryBlock* kQueryColumns : kCodeSums;

/// Of a power of two of sums of `registers` each, as many as N queries may have.
template <TileKind kKind, int N>
constexpr int columns_of(int registers) {
  int columns = kQueryColumns;
  while (columns > 1 && N * columns * registers > kSums<kKind>) columns /= 2;
  return columns;
}

/// The first query of a block as keys of a kind are multiplied, and its numbers in one step.
template <TileKind kKind>
ASHLAR_INLINE auto elements_of(const QueryBlock& b) {
  if constexpr (TileTag<kKind>::numbers) {
    return b.q;
  } else {
    return b.words;
  }
}
template <TileKind kKind>
constexpr int kStepWords = TileTag<kKind>::numbers ? 1 : kByteCodes<kKind>* kWords<kKind>;

/// Scaled scores of N queries against the tile, C sixteens of keys at a time; of sixteens without
/// rows, which nobody sees, none.
template <TileKind kKind, int N, int C>
ASHLAR_INLINE void tile_scores_by(const QueryBlock& b, const Tile& tile, int64_t dim, float scale) {
  using Sum = typename KeySumOf<kKind>::Type;
  constexpr int kElements = kKeyElements<kKind>;
  for (int64_t block = 0; block * kLanes < tile.place.rows; block += C) {
    Sum a[N][C];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) clear(a[n][c]);
    }
    const int64_t whole = dim / kElements;
    const KeyBlock<C> keys = key_block<C>(tile, block);
    auto query = elements_of<kKind>(b);
    for (int64_t step = 0; step < whole; ++step, query += kStepWords<kKind> * b.q_stride) {
      fetch_keys<kKind>(keys, step);
      // Cells of eighths may end before those of the first plane do.
      const int64_t left = kKind == TileKind::kQ3 ? dim - step * kElements : kElements;
      score_step<kKind, N, C>(query, b.q_stride, keys, step, left, a);
    }
    if (whole * kElements < dim) {
      const int64_t left = dim - whole * kElements;
      score_step<kKind, N, C>(query, b.q_stride, keys, whole, left, a);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const int64_t j = (block + c) * kLanes;
        vstore(b.p[n] + j, score_of<kKind>(b, tile, n, j, a[n][c], scale));
      }
    }
  }
}

template <TileKind kKind, int N>
ASHLAR_INLINE void tile_scores(const QueryBlock& b, const Tile& tile, int64_t dim, float scale) {
  constexpr int C = columns_of<kKind, N>(KeySumOf<kKind>::registers);
  if constexpr (C > 1) {
    // The few rows that a run may end with.
    if (tile.place.rows <= kLanes) return tile_scores_by<kKind, N, 1>(b, tile, dim, scale);
  }
  tile_scores_by<kKind, N, C>(b, tile, dim, scale);
}

static_assert(kTileBlocks == 4 && kQueryBlock <= 4);
/// Fours of registers whose slots somebody sees: one of a tile, one or two of a pair.
ASHLAR_INLINE int64_t fours_of(const Span& live) { return live.end > kAttentionTile ? 2 : 1; }

/// Scores that a query does not see.
ASHLAR_INLINE void hide(float* p, const Span& live) {
  for (int64_t j = 0; j < live.begin; ++j) p[j] = -__builtin_inff();
  for (int64_t j = live.end; j < fours_of(live) * kAttentionTile; ++j) p[j] = -__builtin_inff();
}

/// What takes the place of a hidden score's exponential. e^−∞ is 0 by way of numbers beneath the
/// normal ones, which cost more than the rest of the tile: so e^0 · 0 is taken instead.
class Hidden {
 public:
  ASHLAR_INLINE explicit Hidden(const Span& live) : blocks_((live.end + kLanes - 1) / kLanes) {
    alignas(64) float slot[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) slot[i] = static_cast<float>(i);
    const Vf begin = vset(static_cast<float>(live.begin)), end = vset(static_cast<float>(live.end));
    for (int64_t c = 0; c < 4 * fours_of(live); ++c) {
      const Vf j = vadd(vload(slot), vset(static_cast<float>(c * kLanes)));
      seen_[c] = vsub(vless(j, end), vless(j, begin));
      least_[c] = vmul(seen_[c], vset(-3e38f));
    }
  }
  /// e^x of sixteen scores less the largest.
  ASHLAR_INLINE Vf exp(int64_t c, Vf x) const {
    return c < blocks_ ? vmul(vexp_below(vmax(least_[c], x)), seen_[c]) : vzero();
  }

 private:
  int64_t blocks_;                             // the others are hidden
  Vf seen_[kPairBlocks], least_[kPairBlocks];  // 1, and a number below all; 0 and 0 where hidden
};

/// The registers at(0) … at(4·fours − 1) joined in a fixed order: four, then those. What is left
/// out is 0, or −∞ of scores, and would change nothing.
template <typename At, typename F>
ASHLAR_INLINE Vf joined(int64_t fours, At at, F f) {
  Vf all;
  for (int64_t four = 0; four < fours; ++four) {
    Vf v[4];
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) v[i] = at(4 * four + i);
    const Vf sum = f(f(v[0], v[1]), f(v[2], v[3]));
    all = four == 0 ? sum : f(all, sum);
  }
  return all;
}
/// What N registers are reduced to, by `four` at once or `one`, in lanes 0 … N − 1.
template <int N, typename Four, typename One>
ASHLAR_INLINE Vf reduced(const Vf (&v)[N], Four four, One one) {
  if constexpr (N > 1) {
    return four({v[0], v[1], v[N > 2 ? 2 : 1], v[N - 1]});
  } else {
    return vset(one(v[0]));
  }
}
template <int N>
ASHLAR_INLINE Vf sums_of(const Vf (&v)[N]) {
  return reduced(v, vsum4, vsum);
}
template <int N>
ASHLAR_INLINE Vf tops_of(const Vf (&v)[N]) {
  return reduced(v, vmax4, vmax_all);
}

/// x_n ← x_n·alpha_n + y_n for the N queries of a block from x on.
template <int N>
ASHLAR_INLINE void drop_and_add(float* x, const QueryBlock& b, Vf y) {
  vstore_n(x, N, vadd(vmul(vload_n(x, N), vload(b.alpha)), y));
}

/// W and w of N queries whose probabilities before normalisation are b.p. What is so small that it
/// cannot divide counts as the smallest that can.
template <int N>
ASHLAR_INLINE void round_weights(const Tile& tile, QueryBlock& b, int64_t fours) {
  constexpr auto levels = static_cast<float>(kLevels);
  const auto weight = [&](int n, int64_t c) __attribute__((always_inline)) {
    return vmul(vload(b.p[n] + c * kLanes), vload(tile.value.step + c * kLanes));
  };
  Vf top[N];
  for (int n = 0; n < N; ++n) {
    top[n] = joined(
        fours, [&](int64_t c) { return weight(n, c); }, vmax);
  }
  const Vf largest = vmax(tops_of(top), vset(kLeastRounded));
  const Vf inverses = vdiv(vset(levels), largest);
  vstore(b.weight_unit, vmul(largest, vset(1 / levels)));
  unrolled<N>([&](auto n) {
    const Vf inverse = vspread<n.value>(inverses);
    int16_t* const weights = b.weights[n.value];
    for (int64_t c = 0; c < 4 * fours; c += 4) {
      Vi rounded[4];
      for (int64_t i = 0; i < 4; ++i) {
        rounded[i] = iround(vmul(weight(n.value, c + i), inverse));  // levels at most
      }
      if (tile.value_kind != TileKind::kPairs) {
        store_weights<kAttentionPair>(weights, c * kLanes, rounded);
      } else {
        for (int64_t i = 0; i < 4; ++i) istore_i16(weights + (c + i) * kLanes, rounded[i]);
      }
    }
  });
}

/// Σ_j p_j·min_j of N queries onto their bases, which drop first.
template <int N>
ASHLAR_INLINE void add_bases(const SoftmaxState& s, const Tile& tile, const QueryBlock& b,
                             int64_t fours) {
  alignas(64) float seen_min[kAttentionPair];
  const float* min = tile.value.min;
  if (b.live.begin > 0 || b.live.end < tile.place.rows) {
    for (int64_t j = 0; j < fours * kAttentionTile; ++j) {
      seen_min[j] = j >= b.live.begin && j < b.live.end ? min[j] : 0.0f;
    }
    min = seen_min;
  }
  Vf sum[N];
  for (int n = 0; n < N; ++n) {
    const auto product = [&](int64_t c) __attribute__((always_inline)) {
      return vmul(vload(b.p[n] + c * kLanes), vload(min + c * kLanes));
    };
    sum[n] = joined(fours, product, vadd);
  }
  drop_and_add<N>(s.base + b.first, b, sums_of(sum));
}

/// Turns the scores of N queries into probabilities before normalisation, the factors that rescale
/// what came before, and the weights of the values; `exp` as Hidden::exp.
template <int N, typename Exp>
ASHLAR_INLINE void softmax_by(const SoftmaxState& s, const Tile& tile, QueryBlock& b, int64_t fours,
                              Exp exp) {
  Vf top[N], sum[N];
  for (int n = 0; n < N; ++n) {
    top[n] = joined(
        fours, [&](int64_t c) { return vload(b.p[n] + c * kLanes); }, vmax);
  }
  const Vf before = vload_n(s.max + b.first, N), now = vmax(tops_of(top), before);
  vstore_n(s.max + b.first, N, now);
  vstore(b.alpha, vexp(vsub(before, now)));
  unrolled<N>([&](auto n) {
    const Vf max = vspread<n.value>(now);
    float* const p = b.p[n.value];
    const auto probability = [&](int64_t c) __attribute__((always_inline)) {
      const Vf e = exp(c, vsub(vload(p + c * kLanes), max));
      vstore(p + c * kLanes, e);
      return e;
    };
    sum[n.value] = joined(fours, probability, vadd);
  });
  drop_and_add<N>(s.sum + b.first, b, sums_of(sum));
  if (!tile.value.affine) return drop_and_add<N>(s.base + b.first, b, vzero());
  round_weights<N>(tile, b, fours);
  add_bases<N>(s, tile, b, fours);
}
template <int N>
ASHLAR_INLINE void block_softmax(const SoftmaxState& s, const Tile& tile, QueryBlock& b) {
  const auto seen = [](int64_t, Vf x) __attribute__((always_inline)) { return vexp_below(x); };
  if (b.live.begin == 0 && b.live.end == kAttentionPair) {
    softmax_by<N>(s, tile, b, 2, seen);
  } else if (b.live.begin == 0 && b.live.end == kAttentionTile) {
    softmax_by<N>(s, tile, b, 1, seen);
  } else {
    const Hidden hidden(b.live);
    softmax_by<N>(s, tile, b, fours_of(b.live), [&](int64_t c, Vf x) { return hidden.exp(c, x); });
  }
}

template <TileKind kKind, int N, int S, bool kTail>
ASHLAR_INLINE void accumulate(const QueryBlock& b, int n0, const Tile& tile, int64_t step,
                              float* acc, int64_t stride) {
  float* to = acc + step * kValueRegisters<kKind> * kLanes;
  if constexpr (TileTag<kKind>::numbers) {
    accumulate_numbers<kKind, N, S, kTail>(b, n0, tile, step, to, stride);
  } else {
    accumulate_codes<kKind, N, S, kTail>(b, n0, tile, step, to, stride);
  }
}

/// The whole width of N values' accumulators.
template <TileKind kKind, int N>
ASHLAR_INLINE void accumulate_all(const QueryBlock& b, int n0, const Tile& tile, float* acc,
                                  int64_t stride) {
  constexpr int R = kValueRegisters<kKind>, kElements = R * kLanes;
  constexpr int C = columns_of<kKind, N>(SumOf<kKind>::registers), S = R < C ? C / R : 1;
  const int64_t whole = tile.value_dim / kElements;
  int64_t step = 0;
  for (; step + S <= whole; step += S) {
    accumulate<kKind, N, S, false>(b, n0, tile, step, acc, stride);
  }
  for (; S > 1 && step < whole; ++step) {
    accumulate<kKind, N, 1, false>(b, n0, tile, step, acc, stride);
  }
  if (whole * kElements < tile.value_dim) {
    accumulate<kKind, N, 1, true>(b, n0, tile, step, acc, stride);
  }
}

/// N values' accumulators, M at a time while there are so many.
template <TileKind kKind, int N, int M>
ASHLAR_INLINE void accumulate_block(const QueryBlock& b, const Tile& tile, float* acc,
                                    int64_t stride) {
  for (int n = 0; n + M <= N; n += M) {
    accumulate_all<kKind, M>(b, n, tile, acc + n * stride, stride);
  }
  constexpr int kLeft = N % M, kDone = N - kLeft;
  if constexpr (kLeft > 0) {
    accumulate_all<kKind, kLeft>(b, kDone, tile, acc + kDone * stride, stride);
  }
}

/// N queries against one tile.
template <int N>
void attend_block(const AttentionTask& task, const SoftmaxState& s, const Tile& tile,
                  QueryBlock& b) {
  with_tile(tile.key_kind, [&](auto tag) {
    tile_scores<decltype(tag)::value, N>(b, tile, task.key_dim, task.scale);
  });
  for (int n = 0; n < N; ++n) hide(b.p[n], b.live);
  block_softmax<N>(s, tile, b);
  with_tile(tile.value_kind, [&](auto tag) {
    constexpr TileKind kKind = decltype(tag)::value;
    // As many at a time as have registers for a step, in parts of one size.
    constexpr int kFit = kSums<kKind> / (kValueRegisters<kKind> * SumOf<kKind>::registers);
    constexpr int kParts = kFit < 1 ? N : (N + kFit - 1) / kFit, M = (N + kParts - 1) / kParts;
    accumulate_block<kKind, N, M>(b, tile, s.acc + b.first * s.stride, s.stride);
  });
}

/// The block of n queries, 1 ≤ n ≤ kQueryBlock.
ASHLAR_INLINE void attend_queries(int n, const AttentionTask& task, const SoftmaxState& s,
                                  const Tile& tile, QueryBlock& b) {
  if (n == 1) return attend_block<1>(task, s, tile, b);
  if constexpr (kQueryBlock >= 4) {
    if (n == 2) return attend_block<2>(task, s, tile, b);
    if (n == 3) return attend_block<3>(task, s, tile, b);
  }
  attend_block<kQueryBlock>(task, s, tile, b);
}

}  // namespace
}  // namespace ashlar
