#pragma once

// Included after one ISA header. How attention reads the elements of sixteen keys or of values,
// straight from a page: layouts of kernels/kv_page.h. Numbers become floats. A cell of packed codes
// fills a lane: four units of one key, or the same unit of four values.

#include <type_traits>

#include "kernels/simd/kv_page_impl.h"

namespace ashlar {
namespace {

template <int kValue>
struct Int {
  static constexpr int value = kValue;
};
/// f(Int<0>) … f(Int<kCount − 1>), unrolled.
template <int kCount, typename F>
ASHLAR_INLINE void unrolled(F f) {
  if constexpr (kCount > 0) {
    unrolled<kCount - 1>(f);
    f(Int<kCount - 1>{});
  }
}

/// What a tile holds: numbers, packed codes, or codes already in pairs.
enum class TileKind : uint8_t { kF32, kF16, kBF16, kQ8, kQ4, kQ3, kQ2, kPairs };

ASHLAR_INLINE TileKind tile_kind(CodecKind kind) {
  switch (kind) {
    case CodecKind::kF32:
      return TileKind::kF32;
    case CodecKind::kF16:
      return TileKind::kF16;
    case CodecKind::kBF16:
      return TileKind::kBF16;
    case CodecKind::kQ8:
      return TileKind::kQ8;
    case CodecKind::kQ4:
      return TileKind::kQ4;
    case CodecKind::kQ3:
      return TileKind::kQ3;
    case CodecKind::kQ2:
      break;
  }
  return TileKind::kQ2;
}

/// Calls f with the kind as a compile-time value.
template <TileKind kKind>
struct TileTag {
  static constexpr TileKind value = kKind;
  static constexpr bool numbers =
      kKind == TileKind::kF32 || kKind == TileKind::kF16 || kKind == TileKind::kBF16;
};
template <typename F>
ASHLAR_INLINE void with_tile(TileKind kind, F f) {
  switch (kind) {
    case TileKind::kF32:
      return f(TileTag<TileKind::kF32>{});
    case TileKind::kF16:
      return f(TileTag<TileKind::kF16>{});
    case TileKind::kBF16:
      return f(TileTag<TileKind::kBF16>{});
    case TileKind::kQ8:
      return f(TileTag<TileKind::kQ8>{});
    case TileKind::kQ4:
      return f(TileTag<TileKind::kQ4>{});
    case TileKind::kQ3:
      return f(TileTag<TileKind::kQ3>{});
    case TileKind::kQ2:
      return f(TileTag<TileKind::kQ2>{});
    case TileKind::kPairs:
      return f(TileTag<TileKind::kPairs>{});
  }
}

/// How the elements, pairs or cells of sixteen keys lie from the first one on, sixteen rows of each
/// side by side. Numbers and pairs have one plane, and nothing that fills no cell.
struct KeyForm {
  int64_t stride;   ///< bytes from one to the next
  int64_t second;   ///< to the first cell of the second plane
  int64_t rest[2];  ///< of row 0: to the units that fill no cell, a quarter of the stride apart
};

/// Element `i` of sixteen keys.
template <TileKind kKind>
ASHLAR_INLINE Vf key_numbers(const std::byte* keys, int64_t stride, int64_t i) {
  const std::byte* p = keys + i * stride;
  if constexpr (kKind == TileKind::kF32) return vload(reinterpret_cast<const float*>(p));
  if constexpr (kKind == TileKind::kF16) return vload_half(p);
  return vload_bfloat(p);
}

/// Codes in a byte (q3: of its first plane).
template <TileKind kKind>
constexpr int kByteCodes = kKind == TileKind::kQ4                             ? 2
                           : kKind == TileKind::kQ2 || kKind == TileKind::kQ3 ? 4
                                                                              : 1;
/// Elements of sixteen keys per step: one number, one pair, one cell.
template <TileKind kKind>
constexpr int kKeyElements = TileTag<kKind>::numbers     ? 1
                             : kKind == TileKind::kPairs ? 2
                                                         : kCellUnits* kByteCodes<kKind>;
/// Whether queries are rounded to signed bytes for cells of a kind (attention_block_impl.h).
template <TileKind kKind>
constexpr bool kShortQueries = kByteCodes<kKind> > 1;
/// Words of whole numbers that one code of each byte of a lane, or a pair, is multiplied with.
template <TileKind kKind>
constexpr int kWords = kKind == TileKind::kPairs ? 1
                       : kShortQueries<kKind>    ? kShortWords
                                                 : 2;

/// A lane's codes and their sums: pairs of sixteen bits as idot2 multiplies them, or cells.
struct PairCodes {
  Vi v;
};
struct PairSum {
  Vi v;
};
struct PairWords {
  Vi v;
};
ASHLAR_INLINE void clear(Vf& a) { a = vzero(); }
ASHLAR_INLINE void clear(PairSum& a) { a = {iset(0)}; }
ASHLAR_INLINE PairSum dot(PairSum a, PairCodes x, PairWords w) { return {idot2(a.v, x.v, w.v)}; }
template <typename Sum, typename Words>
ASHLAR_INLINE Sum dot(Sum a, CellCodes x, Words w) {
  return cell_dot(a, x, w);
}
ASHLAR_INLINE Vi total(PairSum a) { return a.v; }
template <typename Sum>
ASHLAR_INLINE Vi total(Sum a) {
  return cell_total(a);
}

/// What products add up in, and the registers it takes.
template <typename Sum, int kRegisters = 1>
struct SumIn {
  using Type = Sum;
  static constexpr int registers = kRegisters;
};
/// Of values of a kind, and of keys.
template <TileKind kKind>
using SumOf = std::conditional_t<
    TileTag<kKind>::numbers, SumIn<Vf>,
    std::conditional_t<kKind == TileKind::kPairs, SumIn<PairSum>, SumIn<CellSum, kCellSums>>>;
template <TileKind kKind>
using KeySumOf =
    std::conditional_t<kShortQueries<kKind>, SumIn<ShortSum, kShortSums>, SumOf<kKind>>;

/// Sixteen cells (and, of q3, the high bits of their codes, a nibble a byte), or pairs.
template <TileKind kKind>
struct Cells {
  Vi x, high;

  /// Code kCode of each byte.
  template <int kCode>
  ASHLAR_INLINE auto codes() const {
    if constexpr (kKind == TileKind::kPairs) {
      return PairCodes{x};
    } else {
      constexpr int kBits = 8 / kByteCodes<kKind>;
      const CellCodes low = cell_codes<kBits * kCode, (1 << kBits) - 1>(x);
      if constexpr (kKind != TileKind::kQ3) {
        return low;
      } else {
        return cell_add(low, cell_codes<kCode, 4>(high));
      }
    }
  }
};

/// Cell `index` of a plane of sixteen keys from row `row` of a page on, `units` units of the rows
/// remaining, its own included.
ASHLAR_INLINE Vi key_cell(const std::byte* keys, int64_t row, const KeyForm& form, int plane,
                          int64_t index, int64_t units) {
  if (units >= kCellUnits) {
    return iload(keys + (plane == 0 ? 0 : form.second) + index * form.stride);
  }
  const std::byte* const rest = keys - row * kCellUnits + form.rest[plane] + row;
  Vi x = iload_u8(rest);
  if (units > 1) x = iadd(x, ishl<8>(iload_u8(rest + form.stride / kCellUnits)));
  if (units > 2) x = iadd(x, ishl<16>(iload_u8(rest + form.stride / kCellUnits * 2)));
  return x;
}

/// One step of sixteen keys; `left` elements of the row remain, this step included.
template <TileKind kKind>
ASHLAR_INLINE Cells<kKind> key_cells(const std::byte* keys, int64_t row, const KeyForm& form,
                                     int64_t step, int64_t left) {
  Cells<kKind> cells;
  if constexpr (kKind == TileKind::kPairs) {
    cells.x = iload(keys + step * form.stride);
  } else {
    constexpr int n = kByteCodes<kKind>;
    cells.x = key_cell(keys, row, form, 0, step, (left + n - 1) / n);
  }
  if constexpr (kKind == TileKind::kQ3) {
    // A cell of eighths serves two steps; nibble i of its half belongs to byte i.
    const int64_t second = step % 2;
    const Vi both = key_cell(keys, row, form, 1, step / 2, (left + 16 * second + 7) / 8);
    const Vi half = second != 0 ? ishr<16>(both) : iand(both, iset(0xffff));
    const Vi apart = ijoin<8>(half, half, iset(0x00ff00ff));
    cells.high = ishl<2>(ijoin<4>(apart, apart, iset(0x0f0f0f0f)));
  }
  return cells;
}

/// Registers of one step of values: lane l of register e holds element l·kRegisters + e, since a
/// lane takes the cell of one byte of packed codes.
template <TileKind kKind>
constexpr int kValueRegisters = kByteCodes<kKind>;
/// Rows of one step of values.
template <TileKind kKind>
constexpr int kValueRows = kKind == TileKind::kPairs ? 2 : kCellUnits;

/// Sixteen elements of one value from step `step` on, of which `left` are the row's.
template <TileKind kKind>
ASHLAR_INLINE Vf value_numbers(const std::byte* row, int64_t step, int64_t left) {
  constexpr int kBytes = kKind == TileKind::kF32 ? 64 : 32;
  const std::byte* p = row + step * kBytes;
  alignas(64) std::byte tail[kBytes];
  if (left < kLanes) {
    __builtin_memset(tail, 0, kBytes);
    __builtin_memcpy(tail, p, static_cast<size_t>(left * (kBytes / kLanes)));
    p = tail;
  }
  if constexpr (kKind == TileKind::kF32) return vload(reinterpret_cast<const float*>(p));
  if constexpr (kKind == TileKind::kF16) return vload_half(p);
  return vload_bfloat(p);
}

/// n ≤ 16 cells side by side, zeros beyond.
ASHLAR_INLINE Vi load_cells(const std::byte* p, int64_t n) {
  return n >= kLanes ? iload(p) : ibits(vload_n(reinterpret_cast<const float*>(p), n));
}

/// Step `step` of values, `left` elements of each row remaining: of the pairs at `rows`, or of the
/// four rows whose cells are there, `second` bytes before those of the second plane.
template <TileKind kKind>
ASHLAR_INLINE Cells<kKind> value_cells(const std::byte* rows, int64_t second, int64_t step,
                                       int64_t left) {
  Cells<kKind> cells;
  constexpr int R = kValueRegisters<kKind>, kBytes = kLanes * kCellUnits;
  if constexpr (kKind == TileKind::kPairs) {
    cells.x = iload(rows + step * kBytes);
  } else {
    cells.x = load_cells(rows + step * kBytes, (left + R - 1) / R);
  }
  if constexpr (kKind == TileKind::kQ3) {
    // A byte of eighths serves two lanes: its low nibble the even one.
    const int64_t bytes = (left + 7) / 8;
    cells.high = ishl<2>(spread_nibbles(
        load_cells(rows + second + step * kBytes / 2, bytes < kLanes / 2 ? bytes : kLanes / 2)));
  }
  return cells;
}

/// Elements in the order of value_cells to their own.
template <int kRegisters>
ASHLAR_INLINE void from_lanes(Vf* v) {
  if constexpr (kRegisters == 2) {
    Vf lo, hi;
    vzip(v[0], v[1], lo, hi);
    v[0] = lo;
    v[1] = hi;
  }
  if constexpr (kRegisters == 4) {
    Vf a, b, c, d;
    vzip(v[0], v[2], a, c);
    vzip(v[1], v[3], b, d);
    vzip(a, b, v[0], v[1]);
    vzip(c, d, v[2], v[3]);
  }
}

}  // namespace
}  // namespace ashlar
