#pragma once

// Included after one ISA header. Tiles that are read where they lie in their pages, and the
// fetching of the next one's lines during the work on this one, since the processor's own
// prefetchers learn too late of short pieces. Whatever only fetches is always inlined: the compiler
// takes a call of it for one without effect and drops it.

#include "kernels/simd/attention_tile_impl.h"

namespace ashlar {
namespace {

/// A line into the second-level cache, or past it into the first.
ASHLAR_INLINE void fetch(const std::byte* p, bool past) {
  if (past) {
    __builtin_prefetch(p, 0, 0);
  } else {
    __builtin_prefetch(p, 0, 2);
  }
}
/// Bytes of a tile of which two leave room in a first-level cache of 32 KiB.
constexpr int64_t kFirstLevelTile = 20 << 10;
/// Whether the lines of such tiles go past the second-level cache. On AMD's processors that one
/// holds all that the first holds, the program too, and what streams through it drives that out.
/// Intel's first level waits for fewer lines at once than memory needs.
ASHLAR_INLINE bool fetches_past(const KvLayout& k, const KvLayout& v) {
  const int64_t row =
      k.unit_bytes * (k.units[0] + k.units[1]) + v.unit_bytes * (v.units[0] + v.units[1]);
  return kAttentionTile * row <= kFirstLevelTile && __builtin_cpu_is("amd");
}

/// Whether the rows of a tile fill registers as they lie in their pages.
ASHLAR_INLINE bool direct(const KvHeadView& kv, const TilePlace& at) {
  if (at.run < 0) return false;
  const KvRun& run = kv.run(at.run);
  return !run.value_in_key && run.page_rows % kLanes == 0 && (run.first + at.row) % kLanes == 0;
}

/// Parameters of sixteen rows from row `row` of a page on, of which `live` count.
ASHLAR_INLINE void direct_parameters(const std::byte* side, const KvLayout& l, int64_t row,
                                     int64_t live, int64_t j, TileParameters& p) {
  vstore(p.min + j, vload_half(side + l.min + 2 * row));
  vstore(p.step + j, vload_half(side + l.step + 2 * row));
  for (int64_t i = live; i < kLanes; ++i) p.min[j + i] = p.step[j + i] = 0.0f;
}

/// Queries and accumulators carry what channels do: keys have min 1 and step 1; rows in front of
/// the segment nothing.
ASHLAR_INLINE void unit_parameters(const TilePlace& place, Tile& tile) {
  for (int64_t j = 0; j < kAttentionTile; ++j) {
    tile.key.min[j] = tile.key.step[j] = j >= place.lead && j < place.rows ? 1.0f : 0.0f;
  }
  for (int64_t j = 0; j < place.lead; ++j) tile.value.min[j] = tile.value.step[j] = 0.0f;
}

/// A tile of a run, read where it lies. Sixteens beyond its rows repeat the first: nobody sees
/// them.
class DirectRun {
 public:
  DirectRun(const KvRun& run, const AttentionTask& task)
      : run_(run),
        k_(kv_layout(run_keys(run, task.key_dim))),
        v_(kv_layout(run_values(run, task.value_dim))),
        past_(fetches_past(k_, v_)) {}

  TileRows rows(const TilePlace& place) const {
    TileRows t;
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      const At at = sixteen(place, c);
      const std::byte *keys = at.page + run_.key_offset, *values = at.page + run_.value_offset;
      t.keys[c].plane[0] = keys + k_.code[0] + at.row * k_.row_stride[0];
      t.keys[c].plane[1] = keys + k_.code[1] + at.row * k_.row_stride[1];
      t.values[c] = values + v_.code[0] + at.row * v_.row_stride[0];
    }
    return t;
  }

  /// Fetches what `load` reads of a tile's parameters.
  ASHLAR_INLINE void fetch_parameters(const TilePlace& place) const {
    for (int64_t c = 0; c * kLanes < place.rows; ++c) {
      const At at = sixteen(place, c);
      const std::byte *keys = at.page + run_.key_offset, *values = at.page + run_.value_offset;
      if (is_affine(run_.key_codec) && run_.key_channels == nullptr) {
        fetch(keys + k_.min + 2 * at.row, past_);
        fetch(keys + k_.step + 2 * at.row, past_);
      }
      if (is_affine(run_.value_codec)) {
        fetch(values + v_.min + 2 * at.row, past_);
        fetch(values + v_.step + 2 * at.row, past_);
      }
    }
  }

  /// Everything but `ahead` and `next`.
  void load(const TilePlace& place, int64_t value_dim, Tile& tile) const {
    tile.place = place;
    tile.past = past_;
    tile.at = rows(place);
    tile.key_kind = tile_kind(run_.key_codec);
    tile.value_kind = tile_kind(run_.value_codec);
    tile.key.affine = is_affine(run_.key_codec);
    tile.value.affine = is_affine(run_.value_codec);
    tile.wide =
        run_.page_rows % kAttentionTile == 0 && (run_.first + place.row) % kAttentionTile == 0;
    tile.key_stride = k_.unit_stride[0];
    tile.value_stride = v_.row_stride[0];
    tile.value_high = v_.code[1] - v_.code[0];
    tile.value_dim = value_dim;
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      const At at = sixteen(place, c);
      const int64_t j = c * kLanes, left = place.rows - j;
      const int64_t live = left < 0 ? 0 : left < kLanes ? left : kLanes;
      if (tile.key.affine && run_.key_channels == nullptr) {
        direct_parameters(at.page + run_.key_offset, k_, at.row, live, j, tile.key);
      }
      if (tile.value.affine) {
        direct_parameters(at.page + run_.value_offset, v_, at.row, live, j, tile.value);
      }
    }
    if (run_.key_channels != nullptr) unit_parameters(place, tile);
  }

 private:
  struct At {
    const std::byte* page;
    int64_t row;
  };
  ASHLAR_INLINE At sixteen(const TilePlace& place, int64_t c) const {
    const int64_t j = c * kLanes, at = run_.first + place.row + (j < place.rows ? j : 0);
    return {run_.pages[at / run_.page_rows], at % run_.page_rows};
  }

  const KvRun& run_;
  KvLayout k_, v_;
  bool past_;
};

/// Fetches the lines of a tile of another run, which is laid out in another way than this one:
/// short runs follow each other.
ASHLAR_INLINE void fetch_run(const KvHeadView& kv, const AttentionTask& task,
                             const TilePlace& place) {
  const KvRun& run = kv.run(place.run);
  DirectRun(run, task).fetch_parameters(place);
  const KvLayout k = kv_layout(run_keys(run, task.key_dim));
  const KvLayout v = kv_layout(run_values(run, task.value_dim));
  const bool past = fetches_past(k, v);
  const int64_t values = v.code[0] + run.page_rows * v.row_stride[0];
  for (int64_t j = 0; j < place.rows; j += kLanes) {
    const int64_t at = run.first + place.row + j, row = at % run.page_rows;
    const std::byte* page = run.pages[at / run.page_rows];
    const std::byte* keys = page + run.key_offset + k.code[0] + row * k.row_stride[0];
    const int64_t stride = k.unit_stride[0], bytes = k.units[0] * stride;
    for (int64_t i = 0; i < bytes; i += stride < 64 ? 64 : stride) fetch(keys + i, past);
    const std::byte* side = page + run.value_offset;
    const int64_t from = v.code[0] + row * v.row_stride[0];
    const int64_t end =
        from + kLanes * v.row_stride[0] < values ? from + kLanes * v.row_stride[0] : values;
    for (int64_t i = from; i < end; i += 64) fetch(side + i, past);
  }
}

/// A tile where it lies; `next`: the tile after it, whose lines are to be fetched meanwhile.
void direct_tile(const KvHeadView& kv, const AttentionTask& task, const TilePlace& place,
                 const TilePlace* next, Tile& tile) {
  const DirectRun run(kv.run(place.run), task);
  run.load(place, task.value_dim, tile);
  tile.ahead = next != nullptr && next->run == place.run;
  if (tile.ahead) {
    tile.next = run.rows(*next);
    run.fetch_parameters(*next);
  }
  if (next != nullptr && !tile.ahead && next->run >= 0 && direct(kv, *next)) {
    fetch_run(kv, task, *next);
  }
}

/// The lines of the next tile's keys that lie where step `step` of this one's does: kUnits units of
/// their first plane, kBytes bytes of sixteen rows; kHigh: one of the second beside.
template <int kUnits, int kBytes, bool kHigh>
ASHLAR_INLINE void fetch_keys(const Tile& tile, int64_t step) {
  if (!tile.ahead) return;
  const int64_t offset = step * kUnits * tile.key_stride;
  if (tile.wide) {
#pragma GCC unroll 16
    for (int c = 0; c < kTileBlocks * kBytes; c += 64) {
      fetch(tile.next.keys[0].plane[0] + offset + c, tile.past);
    }
    if (kHigh) fetch(tile.next.keys[0].plane[1] + step * tile.key_stride, tile.past);
  } else if (offset % 64 < kBytes) {
    for (int c = 0; c < kTileBlocks; ++c) {
      fetch(tile.next.keys[c].plane[0] + offset, tile.past);
    }
  }
}

/// Likewise of its values: `bytes` bytes of row j from `offset` on.
template <int kBytes>
ASHLAR_INLINE void fetch_value(const Tile& tile, int64_t j, int64_t offset) {
  if (!tile.ahead || offset % 64 != 0) return;
  const std::byte* p = tile.next.values[j / kLanes] + j % kLanes * tile.value_stride + offset;
#pragma GCC unroll 16
  for (int c = 0; c < kBytes; c += 64) fetch(p + c, tile.past);
}

}  // namespace
}  // namespace ashlar
