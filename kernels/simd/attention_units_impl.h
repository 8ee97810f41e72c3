#pragma once

// Included after one ISA header. How attention reads the elements of sixteen keys or of values,
// straight from a page: layouts of kernels/kv_page.h. Numbers become floats. A cell of packed codes
// fills a lane; masks make pairs of it, two codes as 16-bit integers, two elements of one key or
// the same element of two neighbouring values, as idot2 multiplies them.

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

/// Sixteen keys of one page: element (pair, cell) i of plane p is at plane[p] + i·stride, sixteen
/// rows of it side by side; units that fill no cell from rest[p] on, a quarter of the stride apart.
/// Numbers and pairs have one plane and no rest.
struct KeyColumns {
  const std::byte* plane[2];
  const std::byte* rest[2];
};

/// Element `i` of sixteen keys.
template <TileKind kKind>
ASHLAR_INLINE Vf key_numbers(const KeyColumns& k, int64_t stride, int64_t i) {
  const std::byte* p = k.plane[0] + i * stride;
  if constexpr (kKind == TileKind::kF32) return vload(reinterpret_cast<const float*>(p));
  if constexpr (kKind == TileKind::kF16) return vload_half(p);
  return vload_bfloat(p);
}

/// Codes in a byte (q3: of its first plane).
template <TileKind kKind>
constexpr int kByteCodes = kKind == TileKind::kQ4                             ? 2
                           : kKind == TileKind::kQ2 || kKind == TileKind::kQ3 ? 4
                                                                              : 1;
/// Pairs of elements per step of sixteen keys: of a cell. Pair e of a cell with n = 2·kKeyPairs
/// elements is e and e + n/2.
template <TileKind kKind>
constexpr int kKeyPairs = kKind == TileKind::kPairs ? 1 : 2 * kByteCodes<kKind>;

/// Codes `kCode` of bytes 0 and 2 (`kByte` 0) or 1 and 3 (1) of each lane.
template <TileKind kKind, int kByte, int kCode>
ASHLAR_INLINE Vi byte_codes(Vi x) {
  constexpr int kBits = 8 / kByteCodes<kKind>, kMask = (1 << kBits) - 1;
  return iand(ishr<8 * kByte + kBits * kCode>(x), iset(kMask | kMask << 16));
}

/// One step, that is 2·kKeyPairs elements, of sixteen keys.
template <TileKind kKind>
struct KeyStep {
  Vi x, eighths;

  /// `left` elements of the row remain, this step included.
  ASHLAR_INLINE void load(const KeyColumns& k, int64_t stride, int64_t step, int64_t left) {
    if constexpr (kKind == TileKind::kPairs) {
      x = iload(k.plane[0] + step * stride);
      return;
    }
    constexpr int n = kByteCodes<kKind>;
    x = cell(k, 0, stride, step, (left + n - 1) / n);
    if constexpr (kKind == TileKind::kQ3) {
      // A cell of eighths serves two steps.
      const int64_t second = step % 2;
      const Vi both = cell(k, 1, stride, step / 2, (left + 16 * second + 7) / 8);
      const Vi own = second != 0 ? ishr<16>(both) : iand(both, iset(0xffff));
      eighths = ijoin<8>(own, own, iset(0x00ff00ff));  // pair e: bits e and e + 16
    }
  }
  template <int kPair>
  ASHLAR_INLINE Vi pair() const {
    if constexpr (kKind == TileKind::kPairs) return x;
    constexpr int n = kByteCodes<kKind>;
    const Vi low = byte_codes<kKind, kPair / n, kPair % n>(x);
    if constexpr (kKind != TileKind::kQ3) return low;
    return iadd(low, ishl<2>(iand(ishr<kPair>(eighths), iset(0x00010001))));
  }

 private:
  /// `units` units of the row remain, this cell's included.
  ASHLAR_INLINE static Vi cell(const KeyColumns& k, int plane, int64_t stride, int64_t index,
                               int64_t units) {
    if (units >= kCellUnits) return iload(k.plane[plane] + index * stride);
    const std::byte* const rest = k.rest[plane];
    Vi x = iload_u8(rest);
    if (units > 1) x = iadd(x, ishl<8>(iload_u8(rest + stride / kCellUnits)));
    if (units > 2) x = iadd(x, ishl<16>(iload_u8(rest + stride / kCellUnits * 2)));
    return x;
  }
};

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
  if (n >= kLanes) return iload(p);
  alignas(64) std::byte cells[kLanes * kCellUnits] = {};
  __builtin_memcpy(cells, p, static_cast<size_t>(n * kCellUnits));
  return iload(cells);
}

/// Step `step` of values, `left` elements of each row remaining: of the pairs at `rows`, or of the
/// four rows whose cells are there, `high` bytes before those of the second plane.
template <TileKind kKind>
struct ValueStep {
  Vi x, eighths;

  ASHLAR_INLINE void load(const std::byte* rows, int64_t high, int64_t step, int64_t left) {
    if constexpr (kKind == TileKind::kPairs) {
      x = iload(rows + step * kLanes * 4);
      return;
    }
    constexpr int R = kValueRegisters<kKind>, kBytes = kLanes * kCellUnits;
    x = load_cells(rows + step * kBytes, (left + R - 1) / R);
    if constexpr (kKind == TileKind::kQ3) {
      // A byte of eighths serves two lanes: its low nibble the even one.
      const int64_t bytes = (left + 7) / 8;
      eighths = spread_nibbles(
          load_cells(rows + high + step * kBytes / 2, bytes < kLanes / 2 ? bytes : kLanes / 2));
    }
  }
  /// Rows 2·kPair and 2·kPair + 1.
  template <int kPair, int kRegister>
  ASHLAR_INLINE Vi pair() const {
    if constexpr (kKind == TileKind::kPairs) return x;
    const Vi low = byte_codes<kKind, kPair, kRegister>(x);
    if constexpr (kKind != TileKind::kQ3) return low;
    const Vi high = iand(ishr<8 * kPair + kRegister>(eighths), iset(0x00010001));
    return iadd(low, ishl<2>(high));
  }
};

/// Elements in the order of value_pairs to their own.
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
