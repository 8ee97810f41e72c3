#pragma once

// Included after one ISA header. What a task collects beside its output: probabilities per slot and
// counts of slots below 1/n. The tiles keep p_j = e^(s_j − m_t), m_t the row's largest score up to
// that tile; the probability is p_j·(e^(m_t − m) / l), so that no exponential is taken twice.

#include "kernels/simd/attention_block_impl.h"

namespace ashlar {
namespace {

/// Probabilities before normalisation that a task keeps, by split, tile and query: in the order in
/// which they are written, and read again.
struct Kept {
  float* p;  ///< null: the task collects nothing
  int64_t p_tile, p_split;
  float* max;  ///< one per tile
  int64_t max_query, max_split;

  ASHLAR_INLINE float* tile(int64_t query, int64_t split, int64_t t) const {
    return p + split * p_split + t * p_tile + query * kAttentionTile;
  }
  ASHLAR_INLINE float* tile_max(int64_t query, int64_t split, int64_t t) const {
    return max + split * max_split + query * max_query + t;
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

/// Turns each kept tile's largest score of one query into the factor that makes its p's
/// probabilities. Tiles that the row does not see hold anything, before and after.
void finish_factors(const Kept& kept, int64_t query, int64_t first, int64_t end,
                    int64_t split_tiles, float max, float sum) {
  for (int64_t t = first; t < end;) {
    const int64_t split = t / split_tiles, in_split = t % split_tiles;
    const int64_t left = split_tiles - in_split;
    float* m = kept.tile_max(query, split, in_split);
    for_spans(left < end - t ? left : end - t, [&](int64_t i, int64_t n) {
      const Vf e = vexp(vsub(vload_span(m + i, n), vset(max)));
      vstore_span(m + i, n, vdiv(e, vset(sum)));
    });
    t += left;
  }
}

/// C registers of n slots (of 16, if there are several) of the probabilities of a row's heads, a
/// tile and max_query apart, into scores (null: not wanted) and counts; heads in ascending order.
template <int C, bool kCounts>
ASHLAR_INLINE void collect(const AttentionTask& task, const Kept& kept, const float* p,
                           const float* factor, int64_t n, float* scores, float* counts, Vf level) {
  Vf total[C], score[C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    total[c] = vzero();
    score[c] = scores != nullptr ? vload_span(scores + c * kLanes, n) : vzero();
  }
  for (int64_t h = 0; h < task.group; ++h, p += kAttentionTile, factor += kept.max_query) {
    const Vf to_probability = vset(*factor);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      const Vf own = vload_span(p + c * kLanes, n);
      score[c] = vfma(own, to_probability, score[c]);
      if constexpr (kCounts) total[c] = vfma(own, to_probability, total[c]);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    if (scores != nullptr) vstore_span(scores + c * kLanes, n, score[c]);
    if constexpr (!kCounts) continue;
    float* const count = counts + c * kLanes;
    vstore_span(count, n, vadd(vload_span(count, n), vless(total[c], level)));
  }
}

/// One row's probabilities into scores and, if there are any, counts.
template <bool kCounts>
void collect_row(const AttentionTask& task, const TileMap& map, const Kept& kept, int64_t row,
                 int64_t split_tiles, const float* max, const float* sum) {
  const int64_t visible = map.encoded + task.raw_visible + row;
  const int64_t seen = visible - first_seen(task, visible);
  const int64_t seen_first = first_seen(task, visible);
  if (task.score_slots >= visible) return;
  const int64_t wanted = task.score_slots > seen_first ? task.score_slots : seen_first;
  const int64_t first = tile_of_slot(map, wanted);
  const int64_t end = tile_of_slot(map, visible - 1) + 1;
  for (int64_t h = 0; h < task.group; ++h) {
    const int64_t query = row * task.group + h;
    finish_factors(kept, query, first, end, split_tiles, max[query], sum[query]);
  }
  // mean_h p < 1/n as Σ_h p < group/n.
  const Vf level = vset(static_cast<float>(task.group) / static_cast<float>(seen));
  TilePlace at = tile_at(map, first);
  int64_t split = first / split_tiles, in_split = first % split_tiles;
  for (int64_t t = first; t < end; ++t, at = tile_behind(map, at), ++in_split) {
    if (in_split == split_tiles) {
      in_split = 0;
      ++split;
    }
    Span live = seen_of(task, at, visible);
    if (live.begin < task.score_slots - at.slot) live.begin = task.score_slots - at.slot;
    const float* p = kept.tile(row * task.group, split, in_split);
    const float* factor = kept.tile_max(row * task.group, split, in_split);
    const int64_t from = at.slot - task.score_slots;
    const auto of = [&](float* sums, int64_t j) {
      return sums != nullptr ? sums + from + j : nullptr;
    };
    if (live.begin == 0 && live.end == kAttentionTile) {
      collect<kTileBlocks, kCounts>(task, kept, p, factor, kLanes, of(task.scores, 0),
                                    of(task.counts, 0), level);
      continue;
    }
    for_spans(live.end - live.begin, [&](int64_t i, int64_t n) {
      const int64_t j = live.begin + i;
      collect<1, kCounts>(task, kept, p + j, factor, n, of(task.scores, j), of(task.counts, j),
                          level);
    });
  }
}

}  // namespace
}  // namespace ashlar
