#pragma once

// Included after one ISA header. How attention reads the codes of sixteen keys (one unit of each)
// or of one value, straight from a page: layouts of kernels/kv_page.h.

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

/// Elements per step of sixteen keys: whole units of every plane.
template <CodecKind kKind>
constexpr int kKeyElements = kKind == CodecKind::kQ4   ? 2
                             : kKind == CodecKind::kQ2 ? 4
                             : kKind == CodecKind::kQ3 ? 8
                                                       : 1;

/// Sixteen keys of one page: unit u of plane p is at plane[p] + u·stride, sixteen rows of it side
/// by side.
struct KeyColumns {
  const std::byte* plane[2];
};

/// One step, that is kKeyElements elements, of sixteen keys.
template <CodecKind kKind>
struct KeyStep {
  Vf x;              // elements of their own
  Vi unit[2], high;  // packed codes

  /// `left` elements of the row remain, this step included.
  ASHLAR_INLINE void load(const KeyColumns& k, int64_t stride, int64_t step, int64_t left) {
    const std::byte* p = k.plane[0] + step * stride;
    if constexpr (kKind == CodecKind::kF32) x = vload(reinterpret_cast<const float*>(p));
    if constexpr (kKind == CodecKind::kF16) x = vload_half(p);
    if constexpr (kKind == CodecKind::kBF16) x = vload_bfloat(p);
    if constexpr (kKind == CodecKind::kQ8) x = vload_u8(p);
    if constexpr (kKind == CodecKind::kQ4 || kKind == CodecKind::kQ2) unit[0] = iload_u8(p);
    if constexpr (kKind == CodecKind::kQ3) {
      p += step * stride;
      unit[0] = iload_u8(p);
      unit[1] = left > 4 ? iload_u8(p + stride) : iset(0);
      high = iload_u8(k.plane[1] + step * stride);
    }
  }
  template <int kElement>
  ASHLAR_INLINE Vf element() const {
    if constexpr (kKind == CodecKind::kQ4) {
      return vnibble<4 * kElement, false>(unit[0]);
    } else if constexpr (kKind == CodecKind::kQ2) {
      return vpair<2 * kElement>(unit[0]);
    } else if constexpr (kKind == CodecKind::kQ3) {
      return vtriple<2 * (kElement % 4), kElement>(unit[kElement / 4], high);
    } else {
      return x;
    }
  }
};

/// Registers of one step of a value: lane l of register e holds element l·kRegisters + e, since a
/// lane takes one byte of packed codes.
template <CodecKind kKind>
constexpr int kValueRegisters = kKind == CodecKind::kQ4                              ? 2
                                : kKind == CodecKind::kQ2 || kKind == CodecKind::kQ3 ? 4
                                                                                     : 1;

/// Step `step` of one value; `high` is its second plane, `left` as above.
template <CodecKind kKind>
ASHLAR_INLINE void load_value(const std::byte* row, const std::byte* high, int64_t step,
                              int64_t left, Vf* out) {
  constexpr int kBytes = kKind == CodecKind::kF32                                ? 64
                         : kKind == CodecKind::kF16 || kKind == CodecKind::kBF16 ? 32
                                                                                 : 16;
  constexpr int kElements = kLanes * kValueRegisters<kKind>;
  const std::byte* p = row + step * kBytes;
  if constexpr (kKind == CodecKind::kF32 || kKind == CodecKind::kF16 || kKind == CodecKind::kBF16) {
    alignas(64) std::byte tail[kBytes];
    if (left < kElements) {
      __builtin_memset(tail, 0, kBytes);
      __builtin_memcpy(tail, p, static_cast<size_t>(left * (kBytes / kLanes)));
      p = tail;
    }
    if constexpr (kKind == CodecKind::kF32) out[0] = vload(reinterpret_cast<const float*>(p));
    if constexpr (kKind == CodecKind::kF16) out[0] = vload_half(p);
    if constexpr (kKind == CodecKind::kBF16) out[0] = vload_bfloat(p);
    return;
  }
  const auto bytes = [&](const std::byte* at, int64_t n) {
    return n < kLanes ? iload_u8_n(at, n) : iload_u8(at);
  };
  constexpr int R = kValueRegisters<kKind>;
  const Vi unit = bytes(p, (left + R - 1) / R);
  if constexpr (kKind == CodecKind::kQ8) out[0] = vfrom_int(unit);
  if constexpr (kKind == CodecKind::kQ4) {
    out[0] = vnibble<0, false>(unit);
    out[1] = vnibble<4, false>(unit);
  }
  if constexpr (kKind == CodecKind::kQ2) {
    unrolled<4>([&](auto e) { out[e.value] = vpair<2 * e.value>(unit); });
  }
  if constexpr (kKind == CodecKind::kQ3) {
    // A byte of eighths serves two lanes: its low nibble the even one.
    const int64_t n = (left + 7) / 8;
    const Vi eight = spread_nibbles(iload_u8_n(high + step * 8, n < 8 ? n : 8));
    unrolled<4>([&](auto e) { out[e.value] = vtriple<2 * e.value, e.value>(unit, eight); });
  }
}

/// Elements in order to the order of load_value, and back.
template <int kRegisters>
ASHLAR_INLINE void to_lanes(Vf* v) {
  if constexpr (kRegisters == 2) vunzip(v[0], v[1], v[0], v[1]);
  if constexpr (kRegisters == 4) {
    Vf a, b, c, d;
    vunzip(v[0], v[1], a, b);  // elements 0 2 4 …, 1 3 5 …
    vunzip(v[2], v[3], c, d);
    vunzip(a, c, v[0], v[2]);
    vunzip(b, d, v[1], v[3]);
  }
}
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
