#pragma once

// Included after one ISA header. Tiles that are read where they lie in their pages, and the
// fetching of the next one's lines during the work on this one, since the processor's own
// prefetchers learn too late of short pieces. Whatever only fetches is always inlined: the compiler
// takes a call of it for one without effect and drops it.

#include "kernels/simd/attention_tile_impl.h"

namespace ashlar {
namespace {

ASHLAR_INLINE void fetch(const std::byte* p, Ahead how) {
  if (how == Ahead::kFirst) {
    __builtin_prefetch(p, 0, 0);
  } else {
    __builtin_prefetch(p, 0, 2);
  }
}
/// Bytes of a tile of which two leave room in a first-level cache of 32 KiB.
constexpr int64_t kFirstLevelTile = 20 << 10;
/// The lines of such tiles go past the second-level cache where that is better. On AMD's processors
/// that one holds all that the first holds, the program too, and what streams through it drives
/// that out. Intel's first level waits for fewer lines at once than memory needs.
ASHLAR_INLINE Ahead ahead_of(const KvLayout& k, const KvLayout& v, int64_t tile_rows) {
  const int64_t row =
      k.unit_bytes * (k.units[0] + k.units[1]) + v.unit_bytes * (v.units[0] + v.units[1]);
  const bool past = tile_rows * row <= kFirstLevelTile && __builtin_cpu_is("amd");
  return past ? Ahead::kFirst : Ahead::kSecond;
}

/// Whether the rows of a tile fill registers as they lie in their pages.
ASHLAR_INLINE bool direct(const KvHeadView& kv, const TilePlace& at) {
  if (at.run < 0) return false;
  const KvRun& run = kv.run(at.run);
  return !run.value_in_key && run.page_rows % kLanes == 0 && (run.first + at.row) % kLanes == 0;
}

/// Fetches the parameters of sixteen rows.
ASHLAR_INLINE void fetch_parameters(const std::byte* side, const KvLayout& l, Ahead how) {
  fetch(side + l.min, how);
  fetch(side + l.step, how);
}
/// Loads them as those of rows j … j + 15 of a tile; `side`: of a page, 2 bytes per row further.
ASHLAR_INLINE void load_sixteen(const std::byte* side, const KvLayout& l, int64_t j,
                                TileParameters& p) {
  vstore(p.min + j, vload_half(side + l.min));
  vstore(p.step + j, vload_half(side + l.step));
}
/// What rows behind a tile's have for parameters.
ASHLAR_INLINE void clear_behind(const TilePlace& at, TileParameters& p) {
  for (int64_t j = at.rows; j < at.room(); ++j) p.min[j] = p.step[j] = 0.0f;
}

/// Queries and accumulators carry what channels do: keys have min 1 and step 1; rows in front of
/// the segment nothing.
ASHLAR_INLINE void unit_parameters(const TilePlace& place, Tile& tile) {
  for (int64_t j = 0; j < place.room(); ++j) {
    tile.key.min[j] = tile.key.step[j] = j >= place.lead && j < place.rows ? 1.0f : 0.0f;
  }
  for (int64_t j = 0; j < place.lead; ++j) tile.value.min[j] = tile.value.step[j] = 0.0f;
}

/// A run whose tiles are read where they lie.
class DirectRun {
 public:
  DirectRun() = default;
  DirectRun(const KvRun& run, const AttentionTask& task)
      : run_(&run),
        k_(kv_layout(run_keys(run, task.key_dim))),
        v_(kv_layout(run_values(run, task.value_dim))),
        key_bytes_(k_.cells() ? kCellUnits : k_.unit_bytes),
        value_bytes_(v_.row_units() * v_.unit_bytes),
        value_dim_(task.value_dim),
        keys_have_(is_affine(run.key_codec) && run.key_channels == nullptr),
        values_have_(is_affine(run.value_codec)),
        ahead_(ahead_of(k_, v_, run_pairs(run) ? kAttentionPair : kAttentionTile)) {}

  /// Where the rows of a tile lie. Sixteens beyond its rows repeat the first: nobody sees them.
  void rows(const TilePlace& place, TileRows& at) {
    if (place.row != behind_) {
      const int64_t first = run_->first + place.row;
      open(first / run_->page_rows, first % run_->page_rows);
    }
    behind_ = place.row + place.rows;
    for (int64_t c = 0; c < place.blocks(); ++c) {
      if (c * kLanes >= place.rows) {
        at.keys[c] = at.keys[0];
        at.values[c] = at.values[0];
        at.row[c] = at.row[0];
        at.page[c] = at.page[0];
        continue;
      }
      if (row_ == run_->page_rows) open(page_ + 1, 0);
      at.keys[c] = keys_;
      at.values[c] = values_;
      at.row[c] = row_;
      at.page[c] = run_->pages[page_];
      row_ += kLanes;
      keys_ += kLanes * key_bytes_;
      values_ += kLanes * value_bytes_;
    }
  }

  /// Everything but the tile's place, its rows, those of the next one, and `ahead`.
  void load(const TileRows& at, Tile& tile) const {
    tile.key_kind = tile_kind(run_->key_codec);
    tile.value_kind = tile_kind(run_->value_codec);
    tile.key.affine = is_affine(run_->key_codec);
    tile.value.affine = is_affine(run_->value_codec);
    tile.wide = at.row[0] % (2 * kLanes) == 0 && run_->page_rows % (2 * kLanes) == 0;
    const int64_t plane = k_.code[1] - k_.code[0];
    tile.key_form = {
        run_->page_rows * key_bytes_,
        plane,
        {k_.cell_units(0) * run_->page_rows, plane + k_.cell_units(1) * run_->page_rows}};
    tile.value_stride = value_bytes_;
    tile.value_high = v_.units[0] * kCellUnits;
    tile.value_dim = value_dim_;
    for (int64_t c = 0; c < tile.place.blocks(); ++c) {
      if (keys_have_) load_sixteen(key_parameters(at, c), k_, c * kLanes, tile.key);
      if (values_have_) load_sixteen(value_parameters(at, c), v_, c * kLanes, tile.value);
    }
    if (tile.place.rows < tile.place.room()) {
      if (keys_have_) clear_behind(tile.place, tile.key);
      if (values_have_) clear_behind(tile.place, tile.value);
    }
    if (run_->key_channels != nullptr) unit_parameters(tile.place, tile);
  }

  Ahead ahead() const { return ahead_; }
  /// Fetches what `load` reads of a tile's parameters.
  ASHLAR_INLINE void fetch_ahead(const TilePlace& place, const TileRows& at) const {
    for (int64_t c = 0; c < place.blocks(); ++c) {
      if (c % 2 != 0 && at.page[c] == at.page[c - 1]) continue;  // two sixteens' share a line
      if (keys_have_) fetch_parameters(key_parameters(at, c), k_, ahead_);
      if (values_have_) fetch_parameters(value_parameters(at, c), v_, ahead_);
    }
  }

  /// Fetches the rows of a tile that no other of its kind stands before.
  ASHLAR_INLINE void fetch_rows(const TilePlace& place, const TileRows& tile) const {
    const int64_t stride = run_->page_rows * key_bytes_;
    const int64_t bytes = (k_.units[0] + k_.units[1]) * k_.unit_bytes * run_->page_rows;
    for (int64_t c = 0; c < place.blocks(); ++c) {
      for (int64_t i = 0; i < bytes; i += stride < 64 ? 64 : stride) {
        fetch(tile.keys[c] + i, ahead_);
      }
      for (int64_t i = 0; i < kLanes * value_bytes_; i += 64) fetch(tile.values[c] + i, ahead_);
    }
  }

 private:
  /// The next sixteen begin at a row of a page.
  void open(int64_t page, int64_t row) {
    page_ = page;
    row_ = row;
    keys_ = run_->pages[page] + run_->key_offset + k_.code[0] + row * key_bytes_;
    values_ = run_->pages[page] + run_->value_offset + v_.code[0] + row * value_bytes_;
  }
  ASHLAR_INLINE const std::byte* key_parameters(const TileRows& at, int64_t c) const {
    return at.page[c] + run_->key_offset + 2 * at.row[c];
  }
  ASHLAR_INLINE const std::byte* value_parameters(const TileRows& at, int64_t c) const {
    return at.page[c] + run_->value_offset + 2 * at.row[c];
  }

  const KvRun* run_ = nullptr;
  KvLayout k_, v_;
  int64_t key_bytes_ = 0;    // between keys of a row
  int64_t value_bytes_ = 0;  // of a value, which those of four in cells take as well
  int64_t value_dim_ = 0;
  bool keys_have_ = false, values_have_ = false;  // parameters in their pages
  Ahead ahead_ = Ahead::kNot;
  // Where the sixteen behind the last one begin, which are those of run row behind_.
  static constexpr int64_t kUnknown = -kLanes;  // no tile begins there
  int64_t behind_ = kUnknown, page_ = 0, row_ = 0;
  const std::byte *keys_ = nullptr, *values_ = nullptr;
};

/// Tiles where they lie, one behind another.
class DirectTiles {
 public:
  DirectTiles(const KvHeadView& kv, const AttentionTask& task) : kv_(kv), task_(task) {}

  /// Fetches all of the tile to be loaded first.
  void begin(const TilePlace& first) {
    if (!direct(kv_, first)) return;
    find(first);
    run_.fetch_ahead(first, rows_[last_]);
    run_.fetch_rows(first, rows_[last_]);
  }
  /// Loads the tile at tile.place. `next`: the one after it, whose lines are to be fetched
  /// meanwhile; null: none.
  void load(const TilePlace* next, Tile& tile) {
    if (tile.place.index != index_) find(tile.place);
    tile.at = &rows_[last_];
    run_.load(*tile.at, tile);
    const int64_t run = run_index_;
    tile.ahead = Ahead::kNot;
    if (next == nullptr || !direct(kv_, *next)) return;
    find(*next);
    tile.next = &rows_[last_];
    run_.fetch_ahead(*next, *tile.next);
    if (run_index_ == run && next->tiles() == tile.place.tiles()) {  // in the same places
      tile.ahead = run_.ahead();
    } else {
      run_.fetch_rows(*next, *tile.next);
    }
  }

 private:
  void find(const TilePlace& place) {
    if (place.run != run_index_) run_ = DirectRun(kv_.run(place.run), task_);
    run_index_ = place.run;
    index_ = place.index;
    last_ = 1 - last_;
    run_.rows(place, rows_[last_]);
  }

  const KvHeadView& kv_;
  const AttentionTask& task_;
  int64_t run_index_ = -1, index_ = -1;  // of the tile whose place is known; −1: none
  DirectRun run_;                        // its run
  TileRows rows_[2];                     // its rows at last_, and those of the one before
  int last_ = 0;
};

/// C sixteens of a tile's keys: what a loop over their elements reads and fetches. Copies, since
/// the compiler takes a fetch for a change of memory.
template <int C>
struct KeyBlock {
  const std::byte* keys[C];
  const std::byte* next[C];  ///< those of the next tile
  int64_t row[C];            ///< in their pages
  KeyForm form;
  Ahead ahead;
  bool wide;
};
template <int C>
ASHLAR_INLINE KeyBlock<C> key_block(const Tile& tile, int64_t block) {
  KeyBlock<C> k;
  for (int c = 0; c < C; ++c) {
    k.keys[c] = tile.at->keys[block + c];
    k.next[c] = tile.ahead != Ahead::kNot ? tile.next->keys[block + c] : nullptr;
    k.row[c] = tile.at->row[block + c];
  }
  k.form = tile.key_form;
  k.wide = tile.wide;
  k.ahead = tile.ahead;
  // Two sixteens of half numbers share a line where all rows lie side by side: the first's.
  const bool halves = tile.key_kind == TileKind::kF16 || tile.key_kind == TileKind::kBF16;
  if (halves && tile.wide && block % 2 != 0) k.ahead = Ahead::kNot;
  return k;
}
/// The lines of the next tile's keys that lie where step `step` of this one's does.
template <TileKind kKind, int C>
ASHLAR_INLINE void fetch_keys(const KeyBlock<C>& k, int64_t step) {
  if (k.ahead == Ahead::kNot) return;
  const int64_t offset = step * k.form.stride;
  // Where they do not, two steps may.
  constexpr bool kHalves = kKind == TileKind::kF16 || kKind == TileKind::kBF16;
  if (kHalves && !k.wide && offset % 64 >= 32) return;
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    if (kHalves && k.wide && c % 2 != 0) continue;
    fetch(k.next[c] + offset, k.ahead);
    if (kKind == TileKind::kQ3 && step % 2 == 0) {
      fetch(k.next[c] + k.form.second + offset / 2, k.ahead);
    }
  }
}

/// Where the values of the next tile lie that take the places of row j's; null: not to be fetched.
ASHLAR_INLINE const std::byte* values_ahead(const Tile& tile, int64_t j, int64_t offset) {
  if (tile.ahead == Ahead::kNot || offset % 64 != 0) return nullptr;
  return tile.next->values[j / kLanes] + j % kLanes * tile.value_stride + offset;
}
/// Fetches kBytes bytes there (and, of q3, half as many of the second plane, `second` bytes
/// behind), and goes on to where `stride` bytes further do.
template <TileKind kKind, int kBytes>
ASHLAR_INLINE void fetch_values(Ahead how, const std::byte*& ahead, int64_t stride,
                                int64_t second = 0) {
  if (ahead == nullptr) return;
#pragma GCC unroll 16
  for (int c = 0; c < kBytes; c += 64) fetch(ahead + c, how);
  if constexpr (kKind == TileKind::kQ3) {
    for (int c = 0; c < kBytes / 2; c += 64) fetch(ahead + second + c, how);
  }
  ahead += stride;
}

}  // namespace
}  // namespace ashlar
