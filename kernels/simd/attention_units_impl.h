#pragma once

// Included after one ISA header. How attention reads the elements of sixteen keys (one unit of
// each) or of values, straight from a page: layouts of kernels/kv_page.h. Numbers become floats;
// packed codes become pairs: a lane holds two of them as 16-bit integers, two neighbouring elements
// of one key or the same element of two neighbouring values, as idot2 multiplies them.

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

/// Sixteen keys of one page: unit u of plane p is at plane[p] + u·stride, sixteen rows of it side
/// by side. Numbers and pairs have one plane.
struct KeyColumns {
  const std::byte* plane[2];
};

/// Element `i` of sixteen keys.
template <TileKind kKind>
ASHLAR_INLINE Vf key_numbers(const KeyColumns& k, int64_t stride, int64_t i) {
  const std::byte* p = k.plane[0] + i * stride;
  if constexpr (kKind == TileKind::kF32) return vload(reinterpret_cast<const float*>(p));
  if constexpr (kKind == TileKind::kF16) return vload_half(p);
  return vload_bfloat(p);
}

/// Pairs of elements per step of sixteen keys: whole units of every plane.
template <TileKind kKind>
constexpr int kKeyPairs = kKind == TileKind::kQ2   ? 2
                          : kKind == TileKind::kQ3 ? 4
                                                   : 1;

/// Two pairs of 2-bit codes in a byte: e0 at bit 0, e1 at 16, e2 at 4, e3 at 20.
ASHLAR_INLINE Vi spread_pairs(Vi unit) { return ijoin<14>(unit, unit, iset(0x00330033)); }

/// One step, that is 2·kKeyPairs elements, of sixteen keys.
template <TileKind kKind>
struct KeyStep {
  Vi x[2], high;

  /// `left` elements of the row remain, this step included.
  ASHLAR_INLINE void load(const KeyColumns& k, int64_t stride, int64_t step, int64_t left) {
    const std::byte* p = k.plane[0] + step * stride;
    if constexpr (kKind == TileKind::kPairs) x[0] = iload(p);
    if constexpr (kKind == TileKind::kQ8) {
      p += step * stride;
      x[0] = iload_u8(p);
      if (left > 1) x[0] = iadd(x[0], ishl<16>(iload_u8(p + stride)));
    }
    if constexpr (kKind == TileKind::kQ4) {
      const Vi unit = iload_u8(p);
      x[0] = ijoin<12>(unit, unit, iset(0x000f000f));
    }
    if constexpr (kKind == TileKind::kQ2) x[0] = spread_pairs(iload_u8(p));
    if constexpr (kKind == TileKind::kQ3) {
      p += step * stride;
      x[0] = spread_pairs(iload_u8(p));
      x[1] = left > 4 ? spread_pairs(iload_u8(p + stride)) : iset(0);
      const Vi eighths = iload_u8(k.plane[1] + step * stride);
      high = ijoin<15>(eighths, eighths, iset(-1));  // pair i: bits 2i and 2i + 16
    }
  }
  template <int kPair>
  ASHLAR_INLINE Vi pair() const {
    if constexpr (kKind == TileKind::kQ2) {
      return iand(ishr<4 * kPair>(x[0]), iset(0x00030003));
    } else if constexpr (kKind == TileKind::kQ3) {
      const Vi low = iand(ishr<4 * (kPair % 2)>(x[kPair / 2]), iset(0x00030003));
      return iadd(low, ishl<2>(iand(ishr<2 * kPair>(high), iset(0x00010001))));
    } else {
      return x[0];
    }
  }
};

/// Registers of one step of values: lane l of register e holds element l·kRegisters + e, since a
/// lane takes one byte of packed codes.
template <TileKind kKind>
constexpr int kValueRegisters = kKind == TileKind::kQ4                             ? 2
                                : kKind == TileKind::kQ2 || kKind == TileKind::kQ3 ? 4
                                                                                   : 1;

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

ASHLAR_INLINE Vi bytes_of(const std::byte* p, int64_t n) {
  return n < kLanes ? iload_u8_n(p, n) : iload_u8(p);
}

/// Step `step` of the values of two neighbouring rows, `stride` apart, in pairs; `high`: from a row
/// to its second plane. Pairs already made are at `row`, sixteen lanes a step.
template <TileKind kKind>
ASHLAR_INLINE void value_pairs(const std::byte* row, int64_t stride, int64_t high, int64_t step,
                               int64_t left, Vi* out) {
  if constexpr (kKind == TileKind::kPairs) {
    out[0] = iload(row + step * 64);
    return;
  }
  constexpr int R = kValueRegisters<kKind>;
  const std::byte* p = row + step * kLanes;
  const int64_t n = (left + R - 1) / R;
  const Vi x = iadd(bytes_of(p, n), ishl<16>(bytes_of(p + stride, n)));
  if constexpr (kKind == TileKind::kQ8) out[0] = x;
  if constexpr (kKind == TileKind::kQ4) {
    out[0] = iand(x, iset(0x000f000f));
    out[1] = iand(ishr<4>(x), iset(0x000f000f));
  }
  if constexpr (kKind == TileKind::kQ2) {
    unrolled<4>([&](auto e) { out[e.value] = iand(ishr<2 * e.value>(x), iset(0x00030003)); });
  }
  if constexpr (kKind == TileKind::kQ3) {
    // A byte of eighths serves two lanes: its low nibble the even one.
    const int64_t bytes = (left + 7) / 8, m = bytes < 8 ? bytes : 8;
    const std::byte* q = row + high + step * 8;
    const Vi eighths =
        iadd(spread_nibbles(iload_u8_n(q, m)), ishl<16>(spread_nibbles(iload_u8_n(q + stride, m))));
    unrolled<4>([&](auto e) {
      const Vi low = iand(ishr<2 * e.value>(x), iset(0x00030003));
      out[e.value] = iadd(low, ishl<2>(iand(ishr<e.value>(eighths), iset(0x00010001))));
    });
  }
}

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
