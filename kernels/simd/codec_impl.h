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

void decode_affine(const std::byte* in, int64_t dim, bool nibbles, float* x) {
  const Vf min = vset(half_value(load_u16(in))), step = vset(half_value(load_u16(in + 2)));
  in += 4;
  for_spans(dim, [&](int64_t i, int64_t n) {
    std::byte tail[kLanes] = {};
    const std::byte* codes = nibbles ? in + i / 2 : in + i;
    if (n < kLanes) {
      __builtin_memcpy(tail, codes, static_cast<size_t>(nibbles ? (n + 1) / 2 : n));
      codes = tail;
    }
    vstore_span(x + i, n, vfma(step, nibbles ? vload_u4(codes) : vload_u8(codes), min));
  });
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
  switch (kind) {
    case CodecKind::kF32:
      __builtin_memcpy(x, in, static_cast<size_t>(dim) * sizeof(float));
      return;
    case CodecKind::kF16:
      for_spans(dim, [&](int64_t i, int64_t n) {
        std::byte halves[2 * kLanes] = {};
        __builtin_memcpy(halves, in + 2 * i, static_cast<size_t>(2 * n));
        vstore_span(x + i, n, vload_half(halves));
      });
      return;
    case CodecKind::kQ8:
    case CodecKind::kQ4:
      decode_affine(in, dim, kind == CodecKind::kQ4, x);
      return;
  }
}

}  // namespace
}  // namespace ashlar
