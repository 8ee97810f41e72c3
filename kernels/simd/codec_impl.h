#pragma once

// Included after one ISA header. Contracts: kernels/codec.h; where the bytes lie:
// kernels/kv_side.h. Every ISA gives the same bytes and the same floats: step·code is exact in fp32
// (11 + 8 bits), so that FMA and separate rounding agree. Rows are taken in chunks of 64 elements,
// which begin at whole units of every codec.

#include "kernels/kv_side.h"
#include "kernels/simd/elementwise_impl.h"

namespace ashlar {
namespace {

constexpr int64_t kCodecChunk = 64;

struct AffineParameters {
  uint16_t min;
  uint16_t step;
};

AffineParameters affine_parameters(const float* x, int64_t dim, float levels, float clip) {
  Vf low = vset(__builtin_inff()), high = vset(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    const Vf v = vload(x + i);
    low = vmin(v, low);
    high = vmax(v, high);
  }
  float lo = -vmax_all(vsub(vzero(), low));
  float hi = vmax_all(high);
  for (; i < dim; ++i) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
  }
  const float centre = 0.5f * lo + 0.5f * hi;
  const float half_range = clip * (0.5f * hi - 0.5f * lo);
  const uint16_t step = half_bits(2.0f * half_range / levels);
  // A step that rounds to zero leaves one level: the middle.
  return {half_bits((step & 0x7fffu) == 0 ? centre : centre - half_range), step};
}

/// Codes of x[0…n), n ≤ 16: round((x − min) / step) clamped to 0…levels; 0 where step is 0.
ASHLAR_INLINE Vi affine_codes(const float* x, int64_t n, Vf min, Vf step, Vf levels,
                              bool constant) {
  if (constant) return iset(0);
  Vf c = vdiv(vsub(vload_span(x, n), min), step);
  c = vmin(vmax(c, vzero()), levels);
  return iround(c);
}

ASHLAR_INLINE void store_u16(std::byte* p, uint16_t v) { __builtin_memcpy(p, &v, sizeof(v)); }
ASHLAR_INLINE uint16_t load_u16(const std::byte* p) {
  uint16_t v = 0;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

/// float to bfloat16, nearest even; NaN stays NaN.
ASHLAR_INLINE uint16_t bfloat_bits(float x) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

ASHLAR_INLINE bool is_affine(CodecKind kind) {
  return kind != CodecKind::kF32 && kind != CodecKind::kF16 && kind != CodecKind::kBF16;
}
ASHLAR_INLINE float levels_of(CodecKind kind) {
  switch (kind) {
    case CodecKind::kQ8:
      return 255.0f;
    case CodecKind::kQ4:
      return 15.0f;
    case CodecKind::kQ3:
      return 7.0f;
    default:
      return 3.0f;
  }
}
/// Calls f with the kind as a compile-time value.
template <CodecKind kKind>
struct CodecTag {
  static constexpr CodecKind value = kKind;
};
template <typename F>
ASHLAR_INLINE void with_codec(CodecKind kind, F f) {
  switch (kind) {
    case CodecKind::kF32:
      return f(CodecTag<CodecKind::kF32>{});
    case CodecKind::kF16:
      return f(CodecTag<CodecKind::kF16>{});
    case CodecKind::kBF16:
      return f(CodecTag<CodecKind::kBF16>{});
    case CodecKind::kQ8:
      return f(CodecTag<CodecKind::kQ8>{});
    case CodecKind::kQ4:
      return f(CodecTag<CodecKind::kQ4>{});
    case CodecKind::kQ3:
      return f(CodecTag<CodecKind::kQ3>{});
    case CodecKind::kQ2:
      return f(CodecTag<CodecKind::kQ2>{});
  }
}

/// Elements in a unit of the first plane; one of the second has eight.
ASHLAR_INLINE int64_t unit_elements(CodecKind kind) {
  return kind == CodecKind::kQ4 ? 2 : kind == CodecKind::kQ3 || kind == CodecKind::kQ2 ? 4 : 1;
}

/// The planes of up to 64 elements of one row, units side by side.
struct CodecChunk {
  alignas(64) std::byte plane[2][4 * kCodecChunk];
};

/// Packs 64 codes, one a byte; those beyond the row are zero.
void pack_codes(CodecKind kind, const std::byte* code, CodecChunk& out) {
  switch (kind) {
    case CodecKind::kQ8:
      __builtin_memcpy(out.plane[0], code, kCodecChunk);
      return;
    case CodecKind::kQ4:
      for (int64_t i = 0; i < kCodecChunk / 2; ++i) {
        out.plane[0][i] = code[2 * i] | (code[2 * i + 1] << 4);
      }
      return;
    default:
      break;
  }
  for (int64_t i = 0; i < kCodecChunk / 4; ++i) {
    std::byte unit{0};
    for (int64_t e = 0; e < 4; ++e) unit |= (code[4 * i + e] & std::byte{3}) << (2 * e);
    out.plane[0][i] = unit;
  }
  for (int64_t i = 0; kind == CodecKind::kQ3 && i < kCodecChunk / 8; ++i) {
    std::byte unit{0};
    for (int64_t e = 0; e < 8; ++e) unit |= (code[8 * i + e] >> 2) << e;
    out.plane[1][i] = unit;
  }
}

/// The inverse of pack_codes.
void unpack_codes(CodecKind kind, const CodecChunk& in, std::byte* code) {
  const std::byte* units = in.plane[0];
  switch (kind) {
    case CodecKind::kQ8:
      __builtin_memcpy(code, units, kCodecChunk);
      return;
    case CodecKind::kQ4:
      for (int64_t i = 0; i < kCodecChunk; ++i) {
        code[i] = (units[i / 2] >> (i % 2 * 4)) & std::byte{15};
      }
      return;
    default:
      break;
  }
  for (int64_t i = 0; i < kCodecChunk; ++i) {
    code[i] = (units[i / 4] >> (i % 4 * 2)) & std::byte{3};
    if (kind == CodecKind::kQ3) {
      code[i] |= ((in.plane[1][i / 8] >> (i % 8)) & std::byte{1}) << 2;
    }
  }
}

}  // namespace
}  // namespace ashlar
