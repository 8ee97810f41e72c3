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

/// Where the sixteens of a tile's rows lie; those beyond its rows repeat the first: nobody sees
/// them.
struct Sixteens {
  const std::byte* page[kTileBlocks];
  int64_t row[kTileBlocks];  ///< in the page
};

/// A run whose tiles are read where they lie.
class DirectRun {
 public:
  DirectRun() = default;
  DirectRun(const KvRun& run, const AttentionTask& task)
      : run_(&run),
        k_(kv_layout(run_keys(run, task.key_dim))),
        v_(kv_layout(run_values(run, task.value_dim))),
        past_(fetches_past(k_, v_)) {}

  Sixteens sixteens(const TilePlace& place) const {
    Sixteens at;
    int64_t page = (run_->first + place.row) / run_->page_rows;
    int64_t row = (run_->first + place.row) % run_->page_rows;
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      const bool filled = c * kLanes < place.rows;
      at.page[c] = filled ? run_->pages[page] : at.page[0];
      at.row[c] = filled ? row : at.row[0];
      row += kLanes;
      if (row < run_->page_rows) continue;
      row = 0;
      ++page;
    }
    return at;
  }

  TileRows rows(const Sixteens& at) const {
    TileRows t;
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      const std::byte* keys = at.page[c] + run_->key_offset;
      for (int p = 0; p < 2; ++p) {
        t.keys[c].plane[p] = keys + k_.at(p, at.row[c], 0);
        t.keys[c].rest[p] = keys + k_.at(p, at.row[c], k_.cell_units(p));
      }
      t.values[c] = at.page[c] + run_->value_offset + v_.code[0] + at.row[c] * value_bytes();
    }
    return t;
  }

  /// Everything but rows, those of the next tile, and `ahead`.
  void load(const TilePlace& place, const Sixteens& at, int64_t value_dim, Tile& tile) const {
    tile.place = place;
    tile.past = past_;
    tile.key_kind = tile_kind(run_->key_codec);
    tile.value_kind = tile_kind(run_->value_codec);
    tile.key.affine = is_affine(run_->key_codec);
    tile.value.affine = is_affine(run_->value_codec);
    tile.wide = at.row[0] % kAttentionTile == 0 && run_->page_rows % kAttentionTile == 0;
    tile.key_stride = key_stride();
    tile.value_stride = value_bytes();
    tile.value_high = v_.units[0] * kCellUnits;
    tile.value_dim = value_dim;
    for (int64_t c = 0; c < kTileBlocks; ++c) {
      const int64_t j = c * kLanes, left = place.rows - j;
      const int64_t live = left < 0 ? 0 : left < kLanes ? left : kLanes;
      if (tile.key.affine && run_->key_channels == nullptr) {
        direct_parameters(at.page[c] + run_->key_offset, k_, at.row[c], live, j, tile.key);
      }
      if (tile.value.affine) {
        direct_parameters(at.page[c] + run_->value_offset, v_, at.row[c], live, j, tile.value);
      }
    }
    if (run_->key_channels != nullptr) unit_parameters(place, tile);
  }

  /// Fetches what `load` reads of a tile's parameters.
  ASHLAR_INLINE void fetch_parameters(const TilePlace& place, const Sixteens& at) const {
    const bool keys = is_affine(run_->key_codec) && run_->key_channels == nullptr;
    const bool values = is_affine(run_->value_codec);
    for (int64_t c = 0; c * kLanes < place.rows; ++c) {
      const std::byte* k = at.page[c] + run_->key_offset + 2 * at.row[c];
      const std::byte* v = at.page[c] + run_->value_offset + 2 * at.row[c];
      if (keys) fetch(k + k_.min, past_);
      if (keys) fetch(k + k_.step, past_);
      if (values) fetch(v + v_.min, past_);
      if (values) fetch(v + v_.step, past_);
    }
  }

  /// Fetches a whole tile that another run's stands before, laid out in another way.
  ASHLAR_INLINE void fetch_tile(const TilePlace& place, const Sixteens& at) const {
    fetch_parameters(place, at);
    const TileRows tile = rows(at);
    const int64_t stride = key_stride(), bytes = k_.units[0] * k_.unit_bytes * run_->page_rows;
    for (int64_t c = 0; c * kLanes < place.rows; ++c) {
      for (int64_t i = 0; i < bytes; i += stride < 64 ? 64 : stride) {
        fetch(tile.keys[c].plane[0] + i, past_);
      }
      for (int64_t i = 0; i < kLanes * value_bytes(); i += 64) fetch(tile.values[c] + i, past_);
    }
  }

 private:
  /// Bytes between elements or cells of keys.
  int64_t key_stride() const { return run_->page_rows * (k_.cells() ? kCellUnits : k_.unit_bytes); }
  /// Bytes of a value, which those of four in cells take as well.
  int64_t value_bytes() const { return v_.row_units() * v_.unit_bytes; }

  const KvRun* run_ = nullptr;
  KvLayout k_, v_;
  bool past_ = false;
};

/// Tiles where they lie, one behind another.
class DirectTiles {
 public:
  DirectTiles(const KvHeadView& kv, const AttentionTask& task) : kv_(kv), task_(task) {}

  /// `next`: the tile after it, whose lines are to be fetched meanwhile; null: none.
  void load(const TilePlace& place, const TilePlace* next, Tile& tile) {
    if (place.index != index_) find(place);
    run_.load(place, at_, task_.value_dim, tile);
    tile.at = run_.rows(at_);
    const bool more = next != nullptr && direct(kv_, *next);
    tile.ahead = more && next->run == place.run;
    if (!more) return;
    find(*next);
    if (tile.ahead) {
      tile.next = run_.rows(at_);
      run_.fetch_parameters(*next, at_);
    } else {
      run_.fetch_tile(*next, at_);
    }
  }

 private:
  void find(const TilePlace& place) {
    if (place.run != run_index_) run_ = DirectRun(kv_.run(place.run), task_);
    run_index_ = place.run;
    index_ = place.index;
    at_ = run_.sixteens(place);
  }

  const KvHeadView& kv_;
  const AttentionTask& task_;
  int64_t run_index_ = -1, index_ = -1;  // of the tile whose place is known; −1: none
  DirectRun run_;                        // its run
  Sixteens at_;                          // its place
};

/// The lines of the next tile's keys that lie where step `step` of this one's does.
template <TileKind kKind>
ASHLAR_INLINE void fetch_keys(const Tile& tile, int64_t step) {
  constexpr int kBytes = kLanes * (kKind == TileKind::kF16 || kKind == TileKind::kBF16 ? 2 : 4);
  if (!tile.ahead) return;
  const int64_t offset = step * tile.key_stride;
  if (TileTag<kKind>::numbers && tile.wide) {
#pragma GCC unroll 16
    for (int c = 0; c < kTileBlocks * kBytes; c += 64) {
      fetch(tile.next.keys[0].plane[0] + offset + c, tile.past);
    }
  } else if (offset % 64 < kBytes) {
    for (int c = 0; c < kTileBlocks; ++c) {
      fetch(tile.next.keys[c].plane[0] + offset, tile.past);
    }
  }
  if constexpr (kKind == TileKind::kQ3) {
    if (step % 2 != 0) return;
    for (int c = 0; c < kTileBlocks; ++c) {
      fetch(tile.next.keys[c].plane[1] + offset / 2, tile.past);
    }
  }
}

/// Likewise of its values: kBytes bytes of row j, or the cells of four from there, from `offset`
/// on.
template <int kBytes>
ASHLAR_INLINE void fetch_value(const Tile& tile, int64_t j, int64_t offset) {
  if (!tile.ahead || offset % 64 != 0) return;
  const std::byte* p = tile.next.values[j / kLanes] + j % kLanes * tile.value_stride + offset;
#pragma GCC unroll 16
  for (int c = 0; c < kBytes; c += 64) fetch(p + c, tile.past);
}

}  // namespace
}  // namespace ashlar
