#pragma once

// AVX2, FMA and F16C: sixteen lanes in two registers. Names and meanings: simd/generic.h.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define ASHLAR_INLINE inline __attribute__((always_inline))

namespace ashlar {
namespace {

struct Vf {
  __m256 a, b;
};
struct Vi {
  __m256i a, b;
};

constexpr int kLanes = 16;
constexpr int kTileF32 = 6;  // 12 accumulators, 2 weights and a broadcast fill 16 registers
constexpr int kTileInt8 = 4;
/// Register block of attention: queries × registers of slots or values (1, 2 or 4).
constexpr int kQueryBlock = 4;
constexpr int kQueryColumns = 1;
constexpr int kCodeSums = 4;
/// Register block of the dense Hadamard factor: output slabs (2 or 4) × registers.
constexpr int kSignedRows = 2;
constexpr int kSignedColumns = 2;

ASHLAR_INLINE Vf vset(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ASHLAR_INLINE Vf vzero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
ASHLAR_INLINE Vf vload(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ASHLAR_INLINE void vstore(float* p, Vf v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
/// Lanes below n are all ones.
ASHLAR_INLINE __m256i lane_mask(int64_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index);
}
ASHLAR_INLINE Vf vload_n(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, lane_mask(n)), _mm256_maskload_ps(p + 8, lane_mask(n - 8))};
}
ASHLAR_INLINE void vstore_n(float* p, int64_t n, Vf v) {
  _mm256_maskstore_ps(p, lane_mask(n), v.a);
  _mm256_maskstore_ps(p + 8, lane_mask(n - 8), v.b);
}

ASHLAR_INLINE Vf vadd(Vf x, Vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vsub(Vf x, Vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vmul(Vf x, Vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vdiv(Vf x, Vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vfma(Vf x, Vf y, Vf z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
ASHLAR_INLINE Vf vmax(Vf x, Vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vmin(Vf x, Vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
ASHLAR_INLINE Vf vless(Vf x, Vf y) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), one),
          _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ), one)};
}
ASHLAR_INLINE Vf vabs(Vf x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}

ASHLAR_INLINE float vsum(Vf v) {
  const __m256 c = _mm256_add_ps(v.a, v.b);
  const __m128 d = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  const __m128 e = _mm_add_ps(d, _mm_movehl_ps(d, d));
  return _mm_cvtss_f32(_mm_add_ss(e, _mm_movehdup_ps(e)));
}
ASHLAR_INLINE float vmax_all(Vf v) {
  const __m256 c = _mm256_max_ps(v.a, v.b);
  const __m128 d = _mm_max_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  const __m128 e = _mm_max_ps(d, _mm_movehl_ps(d, d));
  return _mm_cvtss_f32(_mm_max_ss(e, _mm_movehdup_ps(e)));
}
template <int kLane>
ASHLAR_INLINE Vf vspread(Vf v) {
  const __m256 x = _mm256_permutevar8x32_ps(kLane < 8 ? v.a : v.b, _mm256_set1_epi32(kLane % 8));
  return {x, x};
}
template <int H>
ASHLAR_INLINE __m256 swap8(__m256 v) {
  if constexpr (H == 4) return _mm256_permute2f128_ps(v, v, 0x01);
  if constexpr (H == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute_ps(v, 0xb1);
}
template <int H>
ASHLAR_INLINE Vf vswap(Vf v) {
  if constexpr (H == 8) {
    return {v.b, v.a};
  } else {
    return {swap8<H>(v.a), swap8<H>(v.b)};
  }
}
template <int H>
ASHLAR_INLINE Vf vnegate_high(Vf v) {
  const __m256 all = _mm256_set1_ps(-0.0f);
  if constexpr (H == 8) {
    return {v.a, _mm256_xor_ps(v.b, all)};
  } else {
    constexpr float s = -0.0f;
    const __m256 mask = H == 4   ? _mm256_setr_ps(0, 0, 0, 0, s, s, s, s)
                        : H == 2 ? _mm256_setr_ps(0, 0, s, s, 0, 0, s, s)
                                 : _mm256_setr_ps(0, s, 0, s, 0, s, 0, s);
    return {_mm256_xor_ps(v.a, mask), _mm256_xor_ps(v.b, mask)};
  }
}

ASHLAR_INLINE Vi iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
ASHLAR_INLINE Vi iload(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
ASHLAR_INLINE Vi iadd(Vi x, Vi y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
ASHLAR_INLINE Vi isub(Vi x, Vi y) {
  return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
ASHLAR_INLINE Vi iand(Vi x, Vi y) {
  return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
ASHLAR_INLINE Vi ixor(Vi x, Vi y) {
  return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
template <int N>
ASHLAR_INLINE Vi ishl(Vi x) {
  return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
ASHLAR_INLINE Vi ishr(Vi x) {
  return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)};
}
template <int N>
ASHLAR_INLINE Vi isar(Vi x) {
  return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)};
}
ASHLAR_INLINE Vi ibits(Vf x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
ASHLAR_INLINE Vf vbits(Vi x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
ASHLAR_INLINE Vf vfrom_int(Vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
ASHLAR_INLINE Vi iround(Vf x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
ASHLAR_INLINE Vi iround_wide(Vf x) { return iround(x); }
ASHLAR_INLINE uint32_t lanes_of(__m256 a, __m256 b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(a)) | static_cast<uint32_t>(_mm256_movemask_ps(b))
                                                            << 8;
}
ASHLAR_INLINE uint32_t lanes_below(Vf x, Vf y) {
  return lanes_of(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ));
}
ASHLAR_INLINE uint32_t lanes_below(Vi x, Vi y) {
  const Vi sign = iset(INT32_MIN), u = ixor(x, sign), v = ixor(y, sign);
  return lanes_of(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v.a, u.a)),
                  _mm256_castsi256_ps(_mm256_cmpgt_epi32(v.b, u.b)));
}
/// a·2^n for whole n: in two factors, so that neither leaves the range of normal floats.
ASHLAR_INLINE Vf vscale(Vf a, Vf n) {
  const Vi whole = iround(n), half = isar<1>(whole), one = iset(127);
  const Vf by_half = vbits(ishl<23>(iadd(half, one)));
  return vmul(vmul(a, by_half), vbits(ishl<23>(iadd(isub(whole, half), one))));
}

ASHLAR_INLINE float half_value(uint16_t h) { return _cvtsh_ss(h); }
ASHLAR_INLINE uint16_t half_bits(float x) {
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}
ASHLAR_INLINE __m128i load16(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
ASHLAR_INLINE Vf vload_half(const std::byte* p) {
  return {_mm256_cvtph_ps(load16(p)), _mm256_cvtph_ps(load16(p + 16))};
}
ASHLAR_INLINE void vstore_half(std::byte* p, Vf v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16),
                   _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
ASHLAR_INLINE Vf vload_bfloat(const std::byte* p) {
  return vbits(ishl<16>({_mm256_cvtepu16_epi32(load16(p)), _mm256_cvtepu16_epi32(load16(p + 16))}));
}
ASHLAR_INLINE Vf bytes_to_floats(__m128i v) {
  return vfrom_int({_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))});
}
ASHLAR_INLINE Vi bytes_to_ints(__m128i v) {
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
ASHLAR_INLINE Vi iload_u8(const std::byte* p) { return bytes_to_ints(load16(p)); }
ASHLAR_INLINE Vf vload_u8(const std::byte* p) { return bytes_to_floats(load16(p)); }
ASHLAR_INLINE Vf vload_u4(const std::byte* p) {
  const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(v, mask), high = _mm_and_si128(_mm_srli_epi16(v, 4), mask);
  return bytes_to_floats(_mm_unpacklo_epi8(low, high));
}
ASHLAR_INLINE void istore_u8(std::byte* p, Vi x) {
  const __m256i mask = _mm256_set1_epi32(255);
  const __m256i w = _mm256_packs_epi32(_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask));
  const __m256i o = _mm256_permute4x64_epi64(w, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(o), _mm256_extracti128_si256(o, 1)));
}

ASHLAR_INLINE void istore(std::byte* p, Vi x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
}
ASHLAR_INLINE void istore_i16(int16_t* p, Vi x) {
  const __m256i w = _mm256_packs_epi32(x.a, x.b);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(w, 0xd8));
}
template <int kShift>
ASHLAR_INLINE Vi ijoin(Vi x, Vi y, Vi mask) {
  return {_mm256_and_si256(_mm256_or_si256(x.a, _mm256_slli_epi32(y.a, kShift)), mask.a),
          _mm256_and_si256(_mm256_or_si256(x.b, _mm256_slli_epi32(y.b, kShift)), mask.b)};
}

template <int kShift, bool kSigned>
ASHLAR_INLINE Vf vbyte(Vi w) {
  if constexpr (kSigned) return vfrom_int(isar<24>(ishl<24 - kShift>(w)));
  return vfrom_int(iand(ishr<kShift>(w), iset(255)));
}
template <int kShift, bool kSigned>
ASHLAR_INLINE Vf vnibble(Vi w) {
  if constexpr (kSigned) return vfrom_int(isar<28>(ishl<28 - kShift>(w)));
  return vfrom_int(iand(ishr<kShift>(w), iset(15)));
}

ASHLAR_INLINE Vi spread_nibbles(Vi v) {
  const __m256i nibbles = _mm256_set1_epi32(0x0f0f0f0f);
  const __m256i low = _mm256_and_si256(v.a, nibbles);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi32(v.a, 4), nibbles);
  const __m256i x = _mm256_unpacklo_epi32(low, high), y = _mm256_unpackhi_epi32(low, high);
  return {_mm256_permute2x128_si256(x, y, 0x20), _mm256_permute2x128_si256(x, y, 0x31)};
}
ASHLAR_INLINE void zip8(__m256 a, __m256 b, __m256& lo, __m256& hi) {
  const __m256 x = _mm256_unpacklo_ps(a, b), y = _mm256_unpackhi_ps(a, b);
  lo = _mm256_permute2f128_ps(x, y, 0x20);
  hi = _mm256_permute2f128_ps(x, y, 0x31);
}
ASHLAR_INLINE void vzip(Vf x, Vf y, Vf& lo, Vf& hi) {
  zip8(x.a, y.a, lo.a, lo.b);
  zip8(x.b, y.b, hi.a, hi.b);
}

ASHLAR_INLINE void transpose8(const float* src, int64_t src_stride, float* dst,
                              int64_t dst_stride) {
  __m256 r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(src + i * src_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(dst + i * dst_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(dst + (i + 4) * dst_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
ASHLAR_INLINE void transpose16(const float* src, int64_t src_stride, float* dst,
                               int64_t dst_stride) {
  for (int i = 0; i < kLanes; i += 8) {
    for (int j = 0; j < kLanes; j += 8) {
      transpose8(src + i * src_stride + j, src_stride, dst + j * dst_stride + i, dst_stride);
    }
  }
}

ASHLAR_INLINE Vi idot2(Vi acc, Vi x, Vi y) {
  return iadd(acc, {_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)});
}

// Bytes are widened to 16 bits: maddubs would saturate at 255·127·2.
struct DotWeights {
  Vi even, odd;
};
constexpr int kDotBytes = 8;

ASHLAR_INLINE DotWeights dot_weights(Vi w) {
  const __m256i mask = _mm256_set1_epi16(255);
  return {{_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)},
          {_mm256_srli_epi16(w.a, 8), _mm256_srli_epi16(w.b, 8)}};
}
ASHLAR_INLINE void store_codes4(std::byte* p, const int32_t* code) {
  const int16_t x[4] = {static_cast<int16_t>(code[0]), static_cast<int16_t>(code[2]),
                        static_cast<int16_t>(code[1]), static_cast<int16_t>(code[3])};
  __builtin_memcpy(p, x, sizeof(x));
}
ASHLAR_INLINE Vi idot(Vi acc, DotWeights w, const std::byte* p) {
  int32_t x[2];
  __builtin_memcpy(x, p, sizeof(x));
  const __m256i e = _mm256_set1_epi32(x[0]), o = _mm256_set1_epi32(x[1]);
  acc = iadd(acc, {_mm256_madd_epi16(w.even.a, e), _mm256_madd_epi16(w.even.b, e)});
  return iadd(acc, {_mm256_madd_epi16(w.odd.a, o), _mm256_madd_epi16(w.odd.b, o)});
}

}  // namespace
}  // namespace ashlar

#include "kernels/simd/cells_pairs.h"
#include "kernels/simd/four_apart.h"
