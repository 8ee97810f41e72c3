#pragma once

// Included after one ISA header.
// Online softmax (Milakov & Gimelshein, arXiv 1805.02867) over fixed tiles of up to 64 rows, or
// pairs of them, as in FlashAttention (arXiv 2205.14135). Per query row and head, over the tiles of
// a split ascending:
//   m' = max(m, max_j s_j), p_j = e^(s_j − m'), l ← l·e^(m − m') + Σ_j p_j,
//   acc ← acc·e^(m − m') + Σ_j p_j·v_j.
// Splits of 32 tiles begin anew and are merged in ascending order by the same rule, as in
// FlashDecoding: out = acc / l. A sink starts the first split at m = sink, l = 1.
// Contracts: kernels/attention.h.

#include "kernels/simd/attention_segments_impl.h"

namespace ashlar {
namespace {

/// More queries than this share a tile in scratch rather than convert it once more.
constexpr int64_t kDirectQueries = 2 * kQueryBlock;

/// Queries [query, …) of a state.
ASHLAR_INLINE SoftmaxState from_query(const SoftmaxState& s, int64_t query) {
  return {s.max + query, s.sum + query, s.base + query, s.acc + query * s.stride, s.stride};
}

/// Rows [row, row + rows) of a task as a task of their own.
AttentionTask rows_of(const AttentionTask& task, int64_t row, int64_t rows) {
  AttentionTask part = task;
  part.q += row * task.q_stride;
  part.out += row * task.out_stride;
  part.rows = rows;
  part.raw_visible += row;
  part.score_from = task.score_from > row ? task.score_from - row : 0;
  if (task.score_rows != nullptr) part.score_rows += row;
  return part;
}

/// Whether some row of a task adds to scores or counts.
ASHLAR_INLINE bool keeps(const AttentionTask& task) {
  return task.collects() && task.score_from < task.rows;
}

/// Every query against the loaded tile, in blocks that see the same of it.
void attend_tile(const AttentionTask& task, const TileMap& map, const PackedQueries& packed,
                 const SoftmaxState& s, const Kept& kept, int64_t split, int64_t in_split,
                 Tile& tile) {
  alignas(64) float local[kQueryBlock][kAttentionPair];
  const int64_t room = tile.place.room();
  int64_t row = 0, head = 0;
  const auto live_of = [&](int64_t r) {
    return seen_of(task, tile.place, map.encoded + task.raw_visible + r);
  };
  Span live = live_of(0);
  const auto next_row = [&] {
    head = 0;
    if (++row < task.rows) live = live_of(row);
  };
  while (row < task.rows) {
    if (live.end <= live.begin) {
      next_row();  // this one ends before the tile or begins behind it
      continue;
    }
    QueryBlock b;
    b.live = live;
    b.first = row * task.group + head;
    b.q = packed.q + b.first;
    b.words = packed.words + b.first;
    b.q_stride = packed.stride;
    float* top[kQueryBlock];  // where a query's largest score is kept
    int n = 0;
    for (; n < kQueryBlock && row < task.rows; ++n) {
      if (live.begin != b.live.begin || live.end != b.live.end) break;
      const int64_t query = b.first + n;
      const bool keeps = kept.p != nullptr && row_scores(task, row);
      b.p[n] = keeps ? kept.tile(query, split, in_split, room) : local[n];
      top[n] = keeps ? kept.tile_max(query, split, in_split) : nullptr;
      b.sum[n] = packed.sum[query];
      b.unit[n] = packed.unit[query];
      b.rest[n] = packed.rest[query];
      if (++head == task.group) next_row();
    }
    attend_queries(n, task, s, tile, b);
    tile.ahead = Ahead::kNot;  // once is enough
    for (int i = 0; i < n; ++i) {
      if (top[i] != nullptr) *top[i] = s.max[b.first + i];
    }
  }
}

/// One split of a few rows from beginning to end.
void run_split(const KvHeadView& kv, const AttentionTask& task, const TileMap& map, int64_t split,
               const SoftmaxState& s, const Kept& kept, SplitScratch& scratch) {
  const int64_t queries = task.rows * task.group;
  const int64_t begin = split * map.split;
  const int64_t end = begin + map.split < map.tiles ? begin + map.split : map.tiles;
  // The first row sees the oldest slots.
  const int64_t oldest = tile_of_slot(map, first_seen(task, map.encoded + task.raw_visible));
  int64_t t = oldest > begin ? oldest : begin;
  TilePlace next = tile_at(map, t);
  const bool few = queries <= kDirectQueries;
  DirectTiles direct_tiles(kv, task);
  if (few && t < end) direct_tiles.begin(next);
  const bool sinks = task.sinks != nullptr && split == 0;
  for (int64_t i = 0; i < queries; ++i) {
    s.max[i] = sinks ? task.sinks[i % task.group] : -__builtin_inff();
    s.sum[i] = sinks ? 1.0f : 0.0f;
    s.base[i] = 0.0f;
  }
  for (int64_t i = 0; i < queries * s.stride; ++i) s.acc[i] = 0.0f;
  Segments segments(kv, task, s, scratch);
  Tile tile;
  TileRows scratch_rows;
  for (; t < end; t = next.index) {
    tile.place = next;
    next = tile_behind(map, tile.place);
    PackedQueries& packed = segments.enter(tile.place);
    if (few && direct(kv, tile.place)) {
      direct_tiles.load(next.index < map.tiles ? &next : nullptr, tile);
    } else {
      scratch_tile(kv, task, scratch.tiles, scratch_rows, tile);
    }
    if (tile.key.affine) {
      arrange(packed, task.key_dim, tile.key_kind);
    } else {
      pack_numbers(task, packed);
    }
    attend_tile(task, map, packed, s, kept, split, t - begin, tile);
  }
  segments.finish();
}

/// A query's level over two parts of what it sees, and what the sums of either are multiplied with.
struct Merge {
  Level level;
  float before, later;
};
ASHLAR_INLINE Merge merge_levels(const Level& a, const Level& b) {
  const float max = b.max > a.max ? b.max : a.max;
  float x[kLanes], y[kLanes];
  vstore(x, vexp(vset(a.max - max)));
  vstore(y, vexp(vset(b.max - max)));
  return {{max, a.sum * x[0] + b.sum * y[0]}, x[0], y[0]};
}
ASHLAR_INLINE Level level_of(const SoftmaxState& s, int64_t query) {
  return {s.max[query], s.sum[query]};
}
/// A split of which the query saw nothing.
ASHLAR_INLINE bool empty(const Level& level) { return level.max == -__builtin_inff(); }

/// Merges what a query saw of a later split into `s`, whose level is `before`; returns both's.
ASHLAR_INLINE Level merge_query(const SoftmaxState& s, const SoftmaxState& later, int64_t query,
                                const Level& before) {
  const Level own = level_of(later, query);
  if (empty(own)) return before;
  const Merge merge = merge_levels(before, own);
  float* acc = s.acc + query * s.stride;
  const float* other = later.acc + query * s.stride;
  for (int64_t j = 0; j < s.stride; j += kLanes) {
    const Vf scaled = vmul(vload(acc + j), vset(merge.before));
    vstore(acc + j, vfma(vload(other + j), vset(merge.later), scaled));
  }
  return merge.level;
}

/// out = acc / l of one query.
ASHLAR_INLINE void write_query(const AttentionTask& task, const SoftmaxState& s, int64_t query,
                               float l) {
  float* out =
      task.out + query / task.group * task.out_stride + query % task.group * task.value_dim;
  for_spans(task.value_dim, [&](int64_t i, int64_t n) {
    vstore_span(out + i, n, vdiv(vload(s.acc + query * s.stride + i), vset(l)));
  });
}

/// Kept probabilities of a task whose splits share one buffer.
Kept kept_in_scratch(const AttentionTask& task, const TileMap& map, float*& p) {
  Kept k{};
  if (!keeps(task)) return k;
  const int64_t queries = task.rows * task.group;
  k.p_tile = queries * kAttentionTile;
  k.p_split = map.split * k.p_tile;
  k.max_query = map.tiles;
  k.max_split = map.split;
  k.p = take(p, map.tiles * k.p_tile);
  k.max = take(p, queries * k.max_query);
  return k;
}

/// Those of a task whose splits have a partial result each, `floats` apart:
/// attention_partial_bytes.
Kept kept_in_partial(const AttentionTask& task, const TileMap& map, float*& p, int64_t floats) {
  Kept k{};
  if (!keeps(task)) return k;
  const int64_t tiles = map.tiles < map.split ? map.tiles : map.split;
  k.p_tile = task.rows * task.group * kAttentionTile;
  k.max_query = tiles;
  k.p_split = k.max_split = floats;
  k.p = take(p, tiles * k.p_tile);
  k.max = take(p, task.rows * task.group * k.max_query);
  return k;
}

/// Calls f(first row, task of the rows) for chunks of rows that share each load of a tile.
template <typename F>
ASHLAR_INLINE void for_row_chunks(const AttentionTask& task, F f) {
  const int64_t chunk = attention_chunk_rows(task.group);
  for (int64_t row = 0; row < task.rows; row += chunk) {
    f(row, rows_of(task, row, task.rows - row < chunk ? task.rows - row : chunk));
  }
}

void attention_kernel(const KvHeadView& kv, const AttentionTask& whole, std::byte* scratch) {
  for_row_chunks(whole, [&](int64_t, const AttentionTask& task) {
    const TileMap map = map_tiles(kv, task);
    float* p = reinterpret_cast<float*>(scratch);
    SplitScratch work = split_scratch(task, p);
    const SoftmaxState first = softmax_state(task, p), later = softmax_state(task, p);
    const Kept kept = kept_in_scratch(task, map, p);
    const int64_t queries = task.rows * task.group;
    for (int64_t split = 0; split * map.split < map.tiles; ++split) {
      run_split(kv, task, map, split, split == 0 ? first : later, kept, work);
      for (int64_t query = 0; split > 0 && query < queries; ++query) {
        const Level both = merge_query(first, later, query, level_of(first, query));
        first.max[query] = both.max;
        first.sum[query] = both.sum;
      }
    }
    for (int64_t query = 0; query < queries; ++query) {
      write_query(task, first, query, first.sum[query]);
    }
    for (int64_t split = 0; kept.p != nullptr && split * map.split < map.tiles; ++split) {
      collect_split(task, map, kept, split, [&](int64_t query) { return level_of(first, query); });
    }
  });
}

void attention_split_kernel(const KvHeadView& kv, const AttentionTask& whole, int64_t split,
                            std::byte* partial, std::byte* scratch) {
  float* p = reinterpret_cast<float*>(partial);
  const SoftmaxState state = softmax_state(whole, p);
  const Kept kept = kept_in_partial(whole, map_tiles(kv, whole), p, 0);
  for_row_chunks(whole, [&](int64_t row, const AttentionTask& task) {
    float* buffer = reinterpret_cast<float*>(scratch);
    SplitScratch work = split_scratch(task, buffer);
    const int64_t query = row * whole.group;
    Kept part = kept;
    part.first = query;
    run_split(kv, task, map_tiles(kv, task), split, from_query(state, query), part, work);
  });
}

/// The partial results of a task's splits, `bytes` apart.
struct Partials {
  const AttentionTask& task;
  std::byte* first;
  int64_t bytes, splits;

  ASHLAR_INLINE SoftmaxState state(int64_t split) const {
    float* p = reinterpret_cast<float*>(first + split * bytes);
    return softmax_state(task, p);
  }
  /// A query's level over all splits, in the order in which merge_query takes them.
  ASHLAR_INLINE Level level(int64_t query) const {
    Level all = level_of(state(0), query);
    for (int64_t split = 1; split < splits; ++split) {
      const Level own = level_of(state(split), query);
      if (!empty(own)) all = merge_levels(all, own).level;
    }
    return all;
  }
};
ASHLAR_INLINE Partials partials_of(const AttentionTask& task, const TileMap& map,
                                   std::byte* partials, int64_t bytes) {
  return {task, partials, bytes, (map.tiles + map.split - 1) / map.split};
}

/// Levels stay as they are, for those that collect at the same time.
void attention_merge_kernel(const KvHeadView& kv, const AttentionTask& task, std::byte* partials,
                            int64_t bytes) {
  const Partials all = partials_of(task, map_tiles(kv, task), partials, bytes);
  const SoftmaxState first = all.state(0);
  for (int64_t query = 0; query < task.rows * task.group; ++query) {
    Level level = level_of(first, query);
    for (int64_t split = 1; split < all.splits; ++split) {
      level = merge_query(first, all.state(split), query, level);
    }
    write_query(task, first, query, level.sum);
  }
}

void attention_collect_kernel(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                              std::byte* partials, int64_t bytes) {
  const TileMap map = map_tiles(kv, task);
  const Partials all = partials_of(task, map, partials, bytes);
  float* p = reinterpret_cast<float*>(partials);
  softmax_state(task, p);
  const Kept kept = kept_in_partial(task, map, p, bytes / 4);
  if (kept.p == nullptr) return;
  collect_split(task, map, kept, split, [&](int64_t query) { return all.level(query); });
}

}  // namespace
}  // namespace ashlar
