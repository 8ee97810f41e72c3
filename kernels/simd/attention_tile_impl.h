#pragma once

// Included after one ISA header. The tiles of a KvHeadView: where they begin, and their keys and
// values as the register blocks of attention_block_impl.h read them.

#include "kernels/attention.h"
#include "kernels/simd/attention_units_impl.h"

namespace ashlar {
namespace {

constexpr int64_t kTileBlocks = kAttentionTile / kLanes;

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

/// Rows of one run (or raw rows) that form one tile.
struct TilePlace {
  int run;        ///< −1: raw rows
  int64_t row;    ///< first row, from the run's beginning
  int64_t rows;   ///< 1 … 64
  int64_t slot;   ///< slot of the first row
  int64_t index;  ///< of the tile
};

/// The tiles that the last row of a task can see.
struct TileMap {
  const KvHeadView* kv;
  int64_t raw;      ///< raw rows that the last row sees
  int64_t encoded;  ///< rows in all runs
  int64_t tiles;
};

ASHLAR_INLINE TileMap map_tiles(const KvHeadView& kv, const AttentionTask& task) {
  TileMap m{&kv, task.raw_visible + task.rows - 1, 0, 0};
  for (int64_t r = 0; r < kv.run_count; ++r) {
    m.encoded += kv.runs[r].rows;
    m.tiles += tiles_of(kv.runs[r].rows);
  }
  m.tiles += tiles_of(m.raw);
  return m;
}

TilePlace tile_at(const TileMap& m, int64_t index) {
  int64_t slot = 0, before = 0, rows = m.raw;
  int run = 0;
  for (; run < m.kv->run_count; ++run) {
    const int64_t tiles = tiles_of(m.kv->runs[run].rows);
    if (index < before + tiles) break;
    before += tiles;
    slot += m.kv->runs[run].rows;
  }
  if (run < m.kv->run_count) {
    rows = m.kv->runs[run].rows;
  } else {
    run = -1;
  }
  const int64_t row = (index - before) * kAttentionTile;
  return {run, row, rows - row < kAttentionTile ? rows - row : kAttentionTile, slot + row, index};
}

/// The tile that holds `slot`.
int64_t tile_of_slot(const TileMap& m, int64_t slot) {
  int64_t before = 0;
  for (int64_t r = 0; r < m.kv->run_count; ++r) {
    const int64_t rows = m.kv->runs[r].rows;
    if (slot < rows) return before + slot / kAttentionTile;
    before += tiles_of(rows);
    slot -= rows;
  }
  return before + slot / kAttentionTile;
}

/// min and step of a tile's rows; zero beyond them. They mean nothing unless `affine`.
struct TileParameters {
  bool affine;
  alignas(64) float min[kAttentionTile];
  alignas(64) float step[kAttentionTile];
};

/// A tile as the blocks of queries read it: straight from its pages, or from scratch, where it lies
/// as floats (codes where the parameters are affine) in the layout of an fp32 page of 64 rows.
struct Tile {
  TilePlace place;
  CodecKind key_kind, value_kind;
  KeyColumns keys[kTileBlocks];  ///< sixteen rows each
  int64_t key_stride;            ///< bytes between units
  const std::byte* values[kTileBlocks];
  int64_t value_stride;  ///< bytes between rows
  int64_t value_high;    ///< from a row to its second plane
  int64_t value_dim;     ///< elements that may be read of each value
  TileParameters key, value;
};

struct TileScratch {
  float* keys_t;  ///< [pad16(key_dim), 64]
  float* values;  ///< [64, pad16(value_dim)]
  float* rows;    ///< [16, pad16(key_dim)]: keys before transposition
};

ASHLAR_INLINE KvSide run_keys(const KvRun& run, int64_t dim) {
  return {run.key_codec, !run.value_in_key, run.page_rows, dim};
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
  for (int64_t j = 0; j < kAttentionTile; ++j) p.min[j] = p.step[j] = 0.0f;
  for_pages(run, offset, at.row, at.rows,
            [&](const std::byte* base, int64_t row, int64_t n, int64_t done) {
              for (int64_t j = 0; j < n; ++j) {
                p.min[done + j] = half_value(load_u16(base + l.min + 2 * (row + j)));
                p.step[done + j] = half_value(load_u16(base + l.step + 2 * (row + j)));
              }
            });
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

/// Brings a tile into scratch. Columns of keys beyond the tile's rows hold anything.
void copy_tile(const KvHeadView& kv, const AttentionTask& task, const TileScratch& s, Tile& tile) {
  const TilePlace& at = tile.place;
  const int64_t key_pad = pad16(task.key_dim), value_pad = pad16(task.value_dim);
  const KvRun* run = at.run < 0 ? nullptr : &kv.runs[at.run];
  const bool shared = run != nullptr && run->value_in_key;
  for (int64_t j = 0; j < at.rows; j += kLanes) {
    const int64_t live = at.rows - j < kLanes ? at.rows - j : kLanes;
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
      transpose16(s.rows + i, key_pad, s.keys_t + i * kAttentionTile + j, kAttentionTile);
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

/// A tile in scratch, for many queries and for rows that no register can be filled with.
void scratch_tile(const KvHeadView& kv, const AttentionTask& task, const TileScratch& s,
                  Tile& tile) {
  copy_tile(kv, task, s, tile);
  tile.key_kind = tile.value_kind = CodecKind::kF32;
  tile.key_stride = kAttentionTile * 4;
  tile.value_dim = pad16(task.value_dim);
  tile.value_stride = tile.value_dim * 4;
  tile.value_high = 0;
  for (int64_t c = 0; c < kTileBlocks; ++c) {
    tile.keys[c].plane[0] = tile.keys[c].plane[1] =
        reinterpret_cast<const std::byte*>(s.keys_t + c * kLanes);
    tile.values[c] = reinterpret_cast<const std::byte*>(s.values + c * kLanes * tile.value_dim);
  }
  tile.key.affine = tile.value.affine = false;
  if (tile.place.run < 0) return;
  const KvRun& run = kv.runs[tile.place.run];
  load_parameters(run, run_keys(run, task.key_dim), run.key_offset, tile.place, tile.key);
  if (run.value_in_key) {
    tile.value = tile.key;
  } else {
    load_parameters(run, run_values(run, task.value_dim), run.value_offset, tile.place, tile.value);
  }
}

/// Whether the rows of a tile fill registers as they lie in their pages.
ASHLAR_INLINE bool direct(const KvHeadView& kv, const TilePlace& at) {
  if (at.run < 0) return false;
  const KvRun& run = kv.runs[at.run];
  return !run.value_in_key && run.page_rows % kLanes == 0 && run.first % kLanes == 0;
}

/// Parameters of sixteen rows from row `row` of a page on, of which `live` count.
ASHLAR_INLINE void direct_parameters(const std::byte* side, const KvLayout& l, int64_t row,
                                     int64_t live, int64_t j, TileParameters& p) {
  vstore(p.min + j, vload_half(side + l.min + 2 * row));
  vstore(p.step + j, vload_half(side + l.step + 2 * row));
  for (int64_t i = live; i < kLanes; ++i) p.min[j + i] = p.step[j + i] = 0.0f;
}

/// A tile where it lies. Blocks beyond the tile's rows repeat the first: nobody sees them.
void direct_tile(const KvHeadView& kv, const AttentionTask& task, Tile& tile) {
  const KvRun& run = kv.runs[tile.place.run];
  const KvLayout k = kv_layout(run_keys(run, task.key_dim));
  const KvLayout v = kv_layout(run_values(run, task.value_dim));
  tile.key_kind = run.key_codec;
  tile.value_kind = run.value_codec;
  tile.key.affine = is_affine(run.key_codec);
  tile.value.affine = is_affine(run.value_codec);
  tile.key_stride = k.unit_stride[0];
  tile.value_stride = v.row_stride[0];
  tile.value_high = v.code[1] - v.code[0];
  tile.value_dim = task.value_dim;
  for (int64_t c = 0; c < kTileBlocks; ++c) {
    const int64_t j = c * kLanes, left = tile.place.rows - j;
    const int64_t at = run.first + tile.place.row + (left > 0 ? j : 0);
    const int64_t row = at % run.page_rows, live = left < kLanes ? left : kLanes;
    const std::byte* page = run.pages[at / run.page_rows];
    const std::byte *keys = page + run.key_offset, *values = page + run.value_offset;
    tile.keys[c].plane[0] = keys + k.code[0] + row * k.row_stride[0];
    tile.keys[c].plane[1] = keys + k.code[1] + row * k.row_stride[1];
    tile.values[c] = values + v.code[0] + row * v.row_stride[0];
    if (tile.key.affine) direct_parameters(keys, k, row, live > 0 ? live : 0, j, tile.key);
    if (tile.value.affine) direct_parameters(values, v, row, live > 0 ? live : 0, j, tile.value);
  }
}

/// Lines of the next tile, fetched a few at a time while the queries work on the present one: its
/// bytes come in short pieces, which the processor's own prefetchers learn too late.
class Ahead {
 public:
  /// `steps`: how many of them fetch() will be told of, about.
  void plan(const KvHeadView& kv, const AttentionTask& task, const TilePlace& at, int64_t steps) {
    const KvRun& run = kv.runs[at.run];
    pieces_ = 0;
    lines_ = 0;
    const KvSide keys = run_keys(run, task.key_dim), values = run_values(run, task.value_dim);
    const KvLayout k = kv_layout(keys), v = kv_layout(values);
    for (int64_t done = 0; done < at.rows;) {
      const int64_t first = run.first + at.row + done, row = first % run.page_rows;
      const int64_t left = run.page_rows - row, n = left < at.rows - done ? left : at.rows - done;
      const std::byte* page = run.pages[first / run.page_rows];
      if (keys.by_column && run.page_rows > kAttentionTile) {
        add(page + run.key_offset + k.code[0] + row * k.row_stride[0], k.units[0],
            k.unit_stride[0]);
      } else if (keys.by_column) {
        const int64_t end =
            k.code[k.planes - 1] + k.units[k.planes - 1] * k.unit_stride[k.planes - 1];
        add(page + run.key_offset, (end + 63) / 64, 64);
      } else {
        add(page + run.key_offset + k.code[0] + row * k.row_stride[0],
            (n * k.row_stride[0] + 63) / 64, 64);
      }
      if (!run.value_in_key) {
        add(page + run.value_offset + v.code[0] + row * v.row_stride[0],
            (n * v.row_stride[0] + 63) / 64, 64);
      }
      done += n;
    }
    steps_ = steps;
    credit_ = 0;
    piece_ = 0;
    take();
  }
  void plan_nothing() {
    pieces_ = piece_ = 0;
    lines_ = left_ = credit_ = 0;
    steps_ = 1;
  }
  /// The lines that `steps` of the planned steps are worth. Called between short loops, never in
  /// them: its stores would make the compiler load every pointer of the loop again.
  void fetch(int64_t steps) {
    for (credit_ += steps * lines_; credit_ >= steps_; credit_ -= steps_) {
      if (left_ == 0) {
        if (piece_ == pieces_) return;
        take();
      }
      __builtin_prefetch(at_, 0, kLocality);
      at_ += stride_;
      --left_;
    }
  }

 private:
  static constexpr int kLocality = 2;
  static constexpr int kPieces = 2 * kTileBlocks + 2;
  void add(const std::byte* at, int64_t lines, int64_t stride) {
    if (pieces_ == kPieces) return;
    piece_list_[pieces_++] = {at, lines, stride};
    lines_ += lines;
  }
  ASHLAR_INLINE void take() {
    at_ = piece_list_[piece_].at;
    left_ = piece_list_[piece_].lines;
    stride_ = piece_list_[piece_].stride;
    ++piece_;
  }
  struct Piece {
    const std::byte* at;
    int64_t lines, stride;
  };
  const std::byte* at_ = nullptr;
  int64_t left_ = 0, stride_ = 0, lines_ = 0, steps_ = 1, credit_ = 0;
  int piece_ = 0, pieces_ = 0;
  Piece piece_list_[kPieces];
};

}  // namespace
}  // namespace ashlar
