#pragma once

// Included after one ISA header. What a task collects beside its output: probabilities per slot and
// counts of slots below 1/n. The tiles keep p_j = e^(s_j − m_t), m_t the row's largest score up to
// that tile; the probability is p_j·(e^(m_t − m) / l), so that no exponential is taken twice. The
// sum over a row's heads is added as a whole number (kernels/score_sums.h).

#include "kernels/simd/attention_block_impl.h"

namespace ashlar {
namespace {

constexpr float kScoreUnits = 0x1p30f;  // 2^kScoreBits
constexpr float kLargestUnits = 0x1p31f;
// p ≤ 1 within 2 ulp, so with factors that add up to less a sum over heads is a 31-bit number.
constexpr float kLargestFactors = 0x1.fffep30f;

/// Probabilities before normalisation that a task keeps, by split, tile and query: in the order in
/// which they are written, and read again.
struct Kept {
  float* p;                 ///< null: the task collects nothing
  int64_t p_tile, p_split;  // a pair takes two tiles' room
  float* max;               ///< one per tile; of a pair the first
  int64_t max_query, max_split;
  int64_t first;  ///< what the first query of a chunk of rows is among all

  /// Of a tile, or pair, with room for `room` rows that begins with tile t of a split.
  ASHLAR_INLINE float* tile(int64_t query, int64_t split, int64_t t, int64_t room) const {
    return p + split * p_split + t * p_tile + (first + query) * room;
  }
  ASHLAR_INLINE float* tile_max(int64_t query, int64_t split, int64_t t) const {
    return max + split * max_split + (first + query) * max_query + t;
  }
};

/// First slot that a row sees whose last visible slot is visible − 1.
ASHLAR_INLINE int64_t first_seen(const AttentionTask& task, int64_t visible) {
  return task.window > 0 && visible > task.window ? visible - task.window : 0;
}

/// The slots of a tile that a row sees whose last visible slot is visible − 1.
ASHLAR_INLINE Span seen_of(const AttentionTask& task, const TilePlace& at, int64_t visible) {
  const int64_t begin = first_seen(task, visible) - at.slot, end = visible - at.slot;
  return {begin > at.lead ? begin : at.lead, end < at.rows ? end : at.rows};
}

/// What softmax has come to for a query: the largest score, and the sum of e^(s − max).
struct Level {
  float max, sum;
};

/// Turns each kept tile's largest score of one query, tiles [first, end) of a split, into the
/// factor that makes its p's probabilities in units of scores. Tiles that the row does not see hold
/// anything, before and after.
ASHLAR_INLINE void finish_factors(float* max, int64_t first, int64_t end, const Level& level) {
  for_spans(end - first, [&](int64_t i, int64_t n) {
    float* const m = max + first + i;
    const Vf e = vexp(vsub(vload_span(m, n), vset(level.max)));
    vstore_span(m, n, vmul(vdiv(e, vset(level.sum)), vset(kScoreUnits)));
  });
}

ASHLAR_INLINE Vi iload_span(const uint32_t* p, int64_t n) {
  return ibits(vload_span(reinterpret_cast<const float*>(p), n));
}
ASHLAR_INLINE void istore_span(uint32_t* p, int64_t n, Vi a) {
  vstore_span(reinterpret_cast<float*>(p), n, vbits(a));
}

/// Sixteen numbers of units, of which some may be no 31-bit numbers, to n sums: one by one.
void add_units(const float* units, int64_t n, uint32_t* low, uint32_t* high) {
  int32_t small[kLanes];
  istore(reinterpret_cast<std::byte*>(small), iround_wide(vload(units)));
  for (int64_t i = 0; i < n; ++i) {
    const float x = units[i];
    uint64_t whole = static_cast<uint32_t>(small[i]);
    if (!(x < kLargestUnits)) whole = x < 0x1p63f ? static_cast<uint64_t>(x) : 0;
    const uint64_t sum = (static_cast<uint64_t>(high[i]) << 32 | low[i]) + whole;
    low[i] = static_cast<uint32_t>(sum);
    high[i] = static_cast<uint32_t>(sum >> 32);
  }
}

/// C registers of n slots (of 16, if there are several) of the probabilities of a row's heads,
/// `room` and max_query apart, into scores and counts from number `at` on; heads in ascending
/// order.
template <int C, bool kCounts>
ASHLAR_INLINE void collect(const AttentionTask& task, const Kept& kept, const float* p,
                           const float* factor, int64_t room, int64_t n, int64_t at, Vf level) {
  Vf total[C], factors = vzero();
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) total[c] = vzero();
  for (int64_t h = 0; h < task.group; ++h, p += room, factor += kept.max_query) {
    const Vf to_units = vset(*factor);
    factors = vadd(factors, to_units);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) total[c] = vfma(vload_span(p + c * kLanes, n), to_units, total[c]);
  }
  if constexpr (kCounts) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      uint32_t* const count = task.counts + at + c * kLanes;
      istore_span(count, n, iadd(iload_span(count, n), iround(vless(total[c], level))));
    }
  }
  if (task.scores.low == nullptr) return;
  uint32_t* const low = task.scores.low + at;
  uint32_t* const high = task.scores.high + at;
  if (lanes_below(factors, vset(kLargestFactors)) == 0) {
    for (int c = 0; c < C; ++c) {
      float units[kLanes];
      vstore(units, total[c]);
      add_units(units, n, low + c * kLanes, high + c * kLanes);
    }
    return;
  }
  uint32_t carries[C], any = 0;
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    const Vi whole = iround_wide(total[c]);
    const Vi sum = iadd(iload_span(low + c * kLanes, n), whole);
    istore_span(low + c * kLanes, n, sum);
    any |= carries[c] = lanes_below(sum, whole);
  }
  if (any == 0) return;
  for (int c = 0; c < C; ++c) {
    for (int i = 0; i < kLanes; ++i) {
      if ((carries[c] >> i & 1) != 0) ++high[c * kLanes + i];
    }
  }
}

/// Whether a row adds to scores and counts.
ASHLAR_INLINE bool row_scores(const AttentionTask& task, int64_t row) {
  return row >= task.score_from && (task.score_rows == nullptr || task.score_rows[row] != 0);
}

/// Tiles by which scores are fetched ahead of their use: they come from memory, one line of sixteen
/// slots among several of what is kept, in less time than a line from memory takes.
constexpr int64_t kScoresAhead = 16;

/// Fetches the scores and counts of `tiles` tiles from number `from` on.
ASHLAR_INLINE void fetch_scores(const AttentionTask& task, int64_t from, int64_t tiles) {
  for (int64_t i = from; i < from + tiles * kAttentionTile; i += kLanes) {
    if (task.scores.low != nullptr) __builtin_prefetch(task.scores.low + i, 1, 3);
    if (task.counts != nullptr) __builtin_prefetch(task.counts + i, 1, 3);
  }
}

/// One row's probabilities of the tiles of a split into scores and, if there are any, counts.
/// level_of(query) is what its softmax has come to over all splits.
template <bool kCounts, typename F>
void collect_row(const AttentionTask& task, const TileMap& map, const Kept& kept, int64_t row,
                 int64_t split, F level_of) {
  const int64_t visible = map.encoded + task.raw_visible + row, seen = first_seen(task, visible);
  if (task.score_slots >= visible) return;
  const int64_t begin = split * map.split;
  int64_t t = tile_of_slot(map, seen < task.score_slots ? task.score_slots : seen);
  int64_t end = tile_of_slot(map, visible - 1) + 1;
  if (t < begin) t = begin;
  if (end > begin + map.split) end = begin + map.split;
  if (t >= end) return;
  const int64_t query = row * task.group;
  TilePlace at = tile_at(map, t);
  fetch_scores(task, at.slot > task.score_slots ? at.slot - task.score_slots : 0, kScoresAhead);
  for (int64_t h = 0; h < task.group; ++h) {
    finish_factors(kept.tile_max(query + h, split, 0), t - begin, end - begin, level_of(query + h));
  }
  // mean_h p < 1/n as Σ_h p < group/n.
  const Vf level =
      vset(static_cast<float>(task.group) / static_cast<float>(visible - seen) * kScoreUnits);
  while (t < end) {
    Span live = seen_of(task, at, visible);
    const int64_t number = at.slot - task.score_slots;  // of the tile's first row
    if (live.begin < -number) live.begin = -number;
    const float* p = kept.tile(query, split, t - begin, at.room());
    const float* factor = kept.tile_max(query, split, t - begin);
    if (live.begin == 0 && live.end == at.room()) {
      for (int64_t j = 0; j < live.end; j += kAttentionTile) {
        fetch_scores(task, number + j + kScoresAhead * kAttentionTile, 1);
        collect<kTileBlocks, kCounts>(task, kept, p + j, factor, at.room(), kLanes, number + j,
                                      level);
      }
    } else {
      for_spans(live.end - live.begin, [&](int64_t i, int64_t n) {
        const int64_t j = live.begin + i;
        collect<1, kCounts>(task, kept, p + j, factor, at.room(), n, number + j, level);
      });
    }
    t += at.tiles();
    if (t < end) at = tile_behind(map, at);
  }
}

/// All rows' that add something.
template <typename F>
void collect_split(const AttentionTask& task, const TileMap& map, const Kept& kept, int64_t split,
                   F level_of) {
  for (int64_t row = 0; row < task.rows; ++row) {
    if (!row_scores(task, row)) continue;
    if (task.counts != nullptr) {
      collect_row<true>(task, map, kept, row, split, level_of);
    } else {
      collect_row<false>(task, map, kept, row, split, level_of);
    }
  }
}

}  // namespace
}  // namespace ashlar
