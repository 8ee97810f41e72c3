#pragma once

// Included after one ISA header. The tiles of a KvHeadView: where they begin, and their keys and
// values as the register blocks of attention_block_impl.h read them.

#include "kernels/attention_plan.h"
#include "kernels/simd/attention_units_impl.h"

namespace ashlar {
namespace {

static_assert(kRunUnit == kLanes);
/// Sixteens of a tile, and of a pair.
constexpr int64_t kTileBlocks = kAttentionTile / kLanes;
constexpr int64_t kPairBlocks = 2 * kTileBlocks;

/// Σ over sixteen chains, then their tree.
ASHLAR_INLINE float sum_elements(const float* x, int64_t n) {
  Vf a = vzero();
  for_spans(n, [&](int64_t i, int64_t m) { a = vadd(a, vload_span(x + i, m)); });
  return vsum(a);
}

ASHLAR_INLINE int64_t pad16(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
ASHLAR_INLINE int64_t tiles_of(int64_t rows) {
  return (rows + kAttentionTile - 1) / kAttentionTile;
}

/// Rows of one run (or raw rows) that form one tile, or a pair of them.
struct TilePlace {
  int64_t run;       ///< −1: raw rows
  int64_t row;       ///< first row, from the run's beginning; −lead in the first tile of a run
  int64_t rows;      ///< 1 … 64, of a pair 65 … 128, with those in front
  int64_t lead;      ///< of them rows in front of the run, which nobody sees
  int64_t slot;      ///< slot of the first row, as if those in front had slots
  int64_t index;     ///< of the tile, or the first of the pair
  int64_t run_tile;  ///< index of the run's first tile

  /// Tiles that it takes, and rows that these have room for.
  ASHLAR_INLINE int64_t tiles() const { return rows > kAttentionTile ? 2 : 1; }
  ASHLAR_INLINE int64_t room() const { return tiles() * kAttentionTile; }
  ASHLAR_INLINE int64_t blocks() const { return tiles() * kTileBlocks; }
};

/// The tiles that the last row of a task can see.
struct TileMap {
  const KvHeadView* kv;
  int64_t raw;      ///< raw rows that the last row sees
  int64_t encoded;  ///< rows in all runs
  int64_t tiles;
  int64_t split;  ///< tiles of one split
};

ASHLAR_INLINE TileMap map_tiles(const KvHeadView& kv, const AttentionTask& task) {
  TileMap m{&kv, task.raw_visible + task.rows - 1, 0, 0, kAttentionSplit};
  for (int64_t r = 0; r < kv.all_runs(); ++r) {
    m.encoded += kv.run(r).rows;
    m.tiles += run_tiles(kv.run(r));
  }
  m.tiles += tiles_of(m.raw);
  // A window has one split: removing tiles in front must not move a border.
  if (task.window > 0) m.split = m.tiles;
  return m;
}

/// Whether tile `index`, the i-th of a run, forms a pair with the one behind it.
ASHLAR_INLINE bool begins_pair(const TileMap& m, const KvRun& run, int64_t index, int64_t i) {
  return run_pairs(run) && i % 2 == 0 && (index + 1) % m.split != 0;
}

/// Tile `index`, which begins a pair or has none, of what begins with run `run`, tile `before` and
/// slot `slot`.
TilePlace tile_from(const TileMap& m, int64_t index, int64_t run, int64_t before, int64_t slot) {
  int64_t rows = m.raw, lead = 0, room = kAttentionTile;
  const int64_t runs = m.kv->all_runs();
  for (; run < runs; ++run) {
    const KvRun& r = m.kv->run(run);
    const int64_t tiles = run_tiles(r);
    if (index < before + tiles) {
      rows = r.rows;
      lead = run_lead(r);
      if (begins_pair(m, r, index, index - before)) room = kAttentionPair;
      break;
    }
    before += tiles;
    slot += r.rows;
  }
  if (run == runs) run = -1;
  const int64_t row = (index - before) * kAttentionTile - lead, left = rows - row;
  return {run, row, left < room ? left : room, row < 0 ? lead : 0, slot + row, index, before};
}
TilePlace tile_at(const TileMap& m, int64_t index) { return tile_from(m, index, 0, 0, 0); }
/// The tile behind another, if there is one.
ASHLAR_INLINE TilePlace tile_behind(const TileMap& m, const TilePlace& at) {
  const int64_t row = at.row + at.rows, index = at.index + at.tiles();
  const int64_t left = (at.run < 0 ? m.raw : m.kv->run(at.run).rows) - row;
  if (left > 0) {
    const bool pair = at.run >= 0 && begins_pair(m, m.kv->run(at.run), index, index - at.run_tile);
    const int64_t room = pair ? kAttentionPair : kAttentionTile, rows = left < room ? left : room;
    return {at.run, row, rows, 0, at.slot + at.rows, index, at.run_tile};
  }
  const int64_t run = at.run < 0 ? m.kv->all_runs() : at.run;
  return tile_from(m, index, run, at.run_tile, at.slot - at.row);
}

/// Whether parameters of some run are those of channels.
ASHLAR_INLINE bool has_channels(const KvHeadView& kv) {
  if (kv.segment_runs > 0) return true;
  for (int64_t r = 0; r < kv.run_count; ++r) {
    if (kv.runs[r].key_channels != nullptr) return true;
  }
  return false;
}

/// The tile that holds `slot`, or the first of its pair.
int64_t tile_of_slot(const TileMap& m, int64_t slot) {
  int64_t before = 0;
  for (int64_t r = 0; r < m.kv->all_runs(); ++r) {
    const KvRun& run = m.kv->run(r);
    if (slot < run.rows) {
      const int64_t i = (slot + run_lead(run)) / kAttentionTile;
      const bool second = i % 2 != 0 && begins_pair(m, run, before + i - 1, i - 1);
      return before + i - (second ? 1 : 0);
    }
    before += run_tiles(run);
    slot -= run.rows;
  }
  return before + slot / kAttentionTile;
}

/// min and step of a tile's rows; zero beyond them. They mean nothing unless `affine`.
struct TileParameters {
  bool affine;
  alignas(64) float min[kAttentionPair];
  alignas(64) float step[kAttentionPair];
};

/// Whether lines of the next tile are fetched: into the second-level cache, or past it into the
/// first.
enum class Ahead : uint8_t { kNot, kSecond, kFirst };

/// Where the sixteens of rows of a tile lie.
struct TileRows {
  const std::byte* keys[kPairBlocks];
  const std::byte* values[kPairBlocks];
  int64_t row[kPairBlocks];            ///< in their pages
  const std::byte* page[kPairBlocks];  ///< null: in scratch
};

/// A tile as the blocks of queries read it: straight from its pages, or from scratch, where it lies
/// as floats in the layout of an fp32 page of as many rows, or as pairs of codes.
struct Tile {
  TilePlace place;
  TileKind key_kind, value_kind;
  const TileRows* at;
  const TileRows* next;  ///< of the tile after it, to be fetched meanwhile
  Ahead ahead;           ///< how: only if the next tile lies in its pages like this one
  bool wide;             ///< a unit of every two sixteens of rows lies side by side
  KeyForm key_form;
  int64_t value_stride;  ///< bytes of a row; four rows of codes lie in cells
  int64_t value_high;    ///< from the cells of four rows to those of their second plane
  int64_t value_dim;     ///< elements that may be read of each value
  TileParameters key, value;
};

struct TileScratch {
  float* keys_t;  ///< [pad16(key_dim), room], or pairs of elements [pad16(key_dim) / 2, room]
  float* values;  ///< [room, pad16(value_dim)], or pairs of rows [room / 2, pad16(value_dim)]
  float* rows;    ///< [16, pad16(key_dim)]: keys before transposition
};

ASHLAR_INLINE KvSide run_keys(const KvRun& run, int64_t dim) {
  return {run.key_codec, !run.value_in_key, run.page_rows, dim, run.key_channels != nullptr};
}
ASHLAR_INLINE KvSide run_values(const KvRun& run, int64_t dim) {
  return {run.value_codec, false, run.page_rows, dim};
}

/// Calls f(base of the side, row in the page, how many, rows before) page by page for `n` rows.
template <typename F>
ASHLAR_INLINE void for_pages(const KvRun& run, int64_t offset, int64_t row, int64_t n, F f) {
  for (int64_t done = 0; done < n;) {
    const int64_t at = run.first + row + done, in_page = at % run.page_rows;
    const int64_t left = run.page_rows - in_page, count = left < n - done ? left : n - done;
    f(run.pages[at / run.page_rows] + offset, in_page, count, done);
    done += count;
  }
}

void load_parameters(const KvRun& run, const KvSide& side, int64_t offset, const TilePlace& at,
                     TileParameters& p) {
  p.affine = is_affine(side.codec);
  if (!p.affine) return;
  const KvLayout l = kv_layout(side);
  for (int64_t j = 0; j < at.room(); ++j) p.min[j] = p.step[j] = 0.0f;
  if (side.channelwise) {
    for (int64_t j = at.lead; j < at.rows; ++j) p.min[j] = p.step[j] = 1.0f;
    return;
  }
  for_pages(run, offset, at.row, at.rows,
            [&](const std::byte* base, int64_t row, int64_t n, int64_t done) {
              for (int64_t j = 0; j < n; ++j) {
                p.min[done + j] = half_value(load_u16(base + l.min + 2 * (row + j)));
                p.step[done + j] = half_value(load_u16(base + l.step + 2 * (row + j)));
              }
            });
  for (int64_t j = 0; j < at.lead; ++j) p.min[j] = p.step[j] = 0.0f;
}

/// Rows [row, row + n) of a run's side as floats (codes where affine), `stride` apart.
ASHLAR_INLINE void load_codes(const KvRun& run, const KvSide& side, int64_t offset, int64_t row,
                              int64_t n, float* out, int64_t stride) {
  for_pages(run, offset, row, n,
            [&](const std::byte* base, int64_t in_page, int64_t count, int64_t done) {
              decode_rows<true>(side, base, in_page, count, out + done * stride, stride);
            });
}

ASHLAR_INLINE void copy_rows(const float* from, int64_t from_stride, int64_t n, int64_t dim,
                             float* to, int64_t to_stride) {
  for (int64_t j = 0; j < n; ++j) {
    for_spans(dim, [&](int64_t i, int64_t m) {
      vstore_span(to + j * to_stride + i, m, vload_span(from + j * from_stride + i, m));
    });
  }
}

/// Brings a tile into scratch. Columns of keys beyond the tile's rows are zero, for what lay there
/// before may be denormal as floats, which are slow; where sixteen columns hold all, no others are
/// read.
void copy_tile(const KvHeadView& kv, const AttentionTask& task, const TileScratch& s, Tile& tile) {
  const TilePlace& at = tile.place;
  const int64_t key_pad = pad16(task.key_dim), value_pad = pad16(task.value_dim);
  const KvRun* run = at.run < 0 ? nullptr : &kv.run(at.run);
  const bool shared = run != nullptr && run->value_in_key;
  const int64_t room = at.room(), columns = at.rows <= kLanes ? kLanes : room;
  for (int64_t j = pad16(at.rows); j < columns; j += kLanes) {
    for (int64_t i = 0; i < key_pad; ++i) vstore(s.keys_t + i * room + j, vzero());
  }
  for (int64_t j = 0; j < at.rows; j += kLanes) {
    const int64_t live = at.rows - j < kLanes ? at.rows - j : kLanes;
    for (int64_t i = live * key_pad; i < kLanes * key_pad; i += kLanes) vstore(s.rows + i, vzero());
    if (run != nullptr) {
      load_codes(*run, run_keys(*run, task.key_dim), run->key_offset, at.row + j, live, s.rows,
                 key_pad);
    } else {
      copy_rows(kv.raw_keys + (at.row + j) * kv.raw_key_stride, kv.raw_key_stride, live,
                task.key_dim, s.rows, key_pad);
    }
    if (shared) {
      copy_rows(s.rows, key_pad, live, task.value_dim, s.values + j * value_pad, value_pad);
    }
    for (int64_t i = 0; i < key_pad; i += kLanes) {
      transpose16(s.rows + i, key_pad, s.keys_t + i * room + j, room);
    }
  }
  if (run == nullptr) {
    copy_rows(kv.raw_values + at.row * kv.raw_value_stride, kv.raw_value_stride, at.rows,
              task.value_dim, s.values, value_pad);
  } else if (!shared) {
    load_codes(*run, run_values(*run, task.value_dim), run->value_offset, at.row, at.rows, s.values,
               value_pad);
  }
}

/// Codes in floats, rows of `width` of them side by side: rows 2i and 2i + 1 become one row of
/// pairs. In place: the pairs never overtake the floats.
void join_rows(float* x, int64_t rows, int64_t width) {
  auto* out = reinterpret_cast<std::byte*>(x);
  for (int64_t r = 0; r < rows; r += 2, x += 2 * width) {
    for (int64_t i = 0; i < width; i += kLanes, out += 4 * kLanes) {
      const Vi low = iround(vload(x + i)), high = iround(vload(x + width + i));
      istore(out, ijoin<16>(low, high, iset(-1)));
    }
  }
}

void parameters_of(const KvHeadView& kv, const AttentionTask& task, Tile& tile) {
  tile.key.affine = tile.value.affine = false;
  if (tile.place.run < 0) return;
  const KvRun& run = kv.run(tile.place.run);
  load_parameters(run, run_keys(run, task.key_dim), run.key_offset, tile.place, tile.key);
  if (run.value_in_key) {
    tile.value = tile.key;
  } else {
    load_parameters(run, run_values(run, task.value_dim), run.value_offset, tile.place, tile.value);
  }
}

/// A tile in scratch, for many queries and for rows that no register can be filled with.
void scratch_tile(const KvHeadView& kv, const AttentionTask& task, const TileScratch& s,
                  TileRows& rows, Tile& tile) {
  const int64_t key_pad = pad16(task.key_dim), value_pad = pad16(task.value_dim);
  if (tile.place.rows % 2 != 0) {  // the other half of the last pair of values
    for (int64_t i = 0; i < value_pad; ++i) s.values[tile.place.rows * value_pad + i] = 0.0f;
  }
  copy_tile(kv, task, s, tile);
  parameters_of(kv, task, tile);
  if (tile.key.affine) join_rows(s.keys_t, key_pad, tile.place.room());
  if (tile.value.affine) join_rows(s.values, tile.place.rows, value_pad);
  tile.key_kind = tile.key.affine ? TileKind::kPairs : TileKind::kF32;
  tile.value_kind = tile.value.affine ? TileKind::kPairs : TileKind::kF32;
  tile.key_form = {tile.place.room() * 4, 0, {}};
  tile.value_dim = value_pad;
  tile.value_stride = value_pad * (tile.value.affine ? 2 : 4);
  tile.value_high = 0;
  tile.wide = false;
  tile.ahead = Ahead::kNot;
  for (int64_t c = 0; c < tile.place.blocks(); ++c) {
    rows.keys[c] = reinterpret_cast<const std::byte*>(s.keys_t + c * kLanes);
    rows.values[c] = reinterpret_cast<const std::byte*>(s.values) + c * kLanes * tile.value_stride;
    rows.row[c] = 0;
    rows.page[c] = nullptr;
  }
  tile.at = &rows;
}

}  // namespace
}  // namespace ashlar
