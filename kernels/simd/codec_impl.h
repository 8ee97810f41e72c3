#pragma once

// Included after one ISA header. Contracts: kernels/codec.h. Every ISA gives
// the same bytes and the same floats: step·code is exact in fp32 (11 + 8 bits), so that FMA and
// separate rounding agree.

#include "kernels/codec.h"
#include "kernels/simd/elementwise_impl.h"

namespace ashlar {
namespace {

/// QuaRot clips the range of keys and values about its centre (arXiv 2404.00456 §4).
constexpr float kClip = 0.95f;

struct AffineParameters {
  uint16_t min;
  uint16_t step;
};

AffineParameters affine_parameters(const float* x, int64_t dim, float levels) {
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
  const float half_range = kClip * (0.5f * hi - 0.5f * lo);
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

void encode_affine(const float* x, int64_t dim, bool nibbles, std::byte* out) {
  const float levels = nibbles ? 15.0f : 255.0f;
  const AffineParameters p = affine_parameters(x, dim, levels);
  store_u16(out, p.min);
  store_u16(out + 2, p.step);
  out += 4;
  const Vf min = vset(half_value(p.min)), step = vset(half_value(p.step)), top = vset(levels);
  const bool constant = (p.step & 0x7fffu) == 0;
  for_spans(dim, [&](int64_t i, int64_t n) {
    std::byte codes[kLanes];
    istore_u8(codes, affine_codes(x + i, n, min, step, top, constant));
    if (!nibbles) {
      __builtin_memcpy(out + i, codes, static_cast<size_t>(n));
      return;
    }
    if (n % 2 != 0) codes[n] = std::byte{0};
    for (int64_t j = 0; j < n; j += 2) out[(i + j) / 2] = codes[j] | (codes[j + 1] << 4);
  });
}

/// Decodes one row; lanes beyond `dim` of the last register are whatever zero codes mean.
/// kWhole: stores whole registers, so `x` must have room for round_up(dim, 16) floats.
template <CodecKind kKind, bool kWhole>
ASHLAR_INLINE void decode_row(const std::byte* in, int64_t dim, float* x) {
  constexpr bool kAffine = kKind == CodecKind::kQ8 || kKind == CodecKind::kQ4;
  Vf min, step;
  if constexpr (kAffine) {
    min = vset(half_value(load_u16(in)));
    step = vset(half_value(load_u16(in + 2)));
    in += 4;
  }
  const auto decode = [&](const std::byte* p) {
    if constexpr (kKind == CodecKind::kF32) return vload(reinterpret_cast<const float*>(p));
    if constexpr (kKind == CodecKind::kF16) return vload_half(p);
    if constexpr (kKind == CodecKind::kQ8) return vfma(step, vload_u8(p), min);
    if constexpr (kKind == CodecKind::kQ4) return vfma(step, vload_u4(p), min);
  };
  // Bytes of sixteen elements, and of n.
  constexpr int64_t kSixteen = kKind == CodecKind::kF32   ? 64
                               : kKind == CodecKind::kF16 ? 32
                               : kKind == CodecKind::kQ8  ? 16
                                                          : 8;
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes, in += kSixteen) vstore(x + i, decode(in));
  if (i == dim) return;
  const int64_t n = dim - i;
  alignas(64) std::byte tail[64] = {};
  __builtin_memcpy(tail, in, static_cast<size_t>((n * kSixteen + kLanes - 1) / kLanes));
  if (kWhole) {
    vstore(x + i, decode(tail));
  } else {
    vstore_n(x + i, n, decode(tail));
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
    case CodecKind::kQ8:
      return f(CodecTag<CodecKind::kQ8>{});
    case CodecKind::kQ4:
      return f(CodecTag<CodecKind::kQ4>{});
  }
}

void encode_row_kernel(CodecKind kind, const float* x, int64_t dim, std::byte* out) {
  switch (kind) {
    case CodecKind::kF32:
      __builtin_memcpy(out, x, static_cast<size_t>(dim) * sizeof(float));
      return;
    case CodecKind::kF16:
      for_spans(dim, [&](int64_t i, int64_t n) {
        std::byte halves[2 * kLanes];
        vstore_half(halves, vload_span(x + i, n));
        __builtin_memcpy(out + 2 * i, halves, static_cast<size_t>(2 * n));
      });
      return;
    case CodecKind::kQ8:
    case CodecKind::kQ4:
      encode_affine(x, dim, kind == CodecKind::kQ4, out);
      return;
  }
}

void decode_row_kernel(CodecKind kind, const std::byte* in, int64_t dim, float* x) {
  with_codec(kind, [&](auto tag) { decode_row<decltype(tag)::value, false>(in, dim, x); });
}

}  // namespace
}  // namespace ashlar
