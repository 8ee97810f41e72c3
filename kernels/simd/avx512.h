#pragma once

// AVX-512 F, BW, DQ, VL: sixteen lanes in one register. Names and meanings: simd/generic.h. The
// integer dot products are in avx512_dot.h and avx512_vnni.h.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define ASHLAR_INLINE inline __attribute__((always_inline))

namespace ashlar {
namespace {

struct Vf {
  __m512 v;
};
struct Vi {
  __m512i v;
};

constexpr int kLanes = 16;
constexpr int kTileF32 = 12;
constexpr int kTileInt8 = 12;
/// Register block of attention: queries × registers of slots or values (1, 2 or 4).
constexpr int kQueryBlock = 4;
constexpr int kQueryColumns = 4;
/// Registers of sums that a loop over codes has room for.
constexpr int kCodeSums = 24;
/// Register block of the dense Hadamard factor: output slabs (2 or 4) × registers.
constexpr int kSignedRows = 4;
constexpr int kSignedColumns = 4;

ASHLAR_INLINE Vf vset(float x) { return {_mm512_set1_ps(x)}; }
ASHLAR_INLINE Vf vzero() { return {_mm512_setzero_ps()}; }
ASHLAR_INLINE Vf vload(const float* p) { return {_mm512_loadu_ps(p)}; }
ASHLAR_INLINE void vstore(float* p, Vf a) { _mm512_storeu_ps(p, a.v); }
ASHLAR_INLINE __mmask16 lane_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
ASHLAR_INLINE Vf vload_n(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(lane_mask(n), p)};
}
ASHLAR_INLINE void vstore_n(float* p, int64_t n, Vf a) {
  _mm512_mask_storeu_ps(p, lane_mask(n), a.v);
}

ASHLAR_INLINE Vf vadd(Vf a, Vf b) { return {_mm512_add_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vsub(Vf a, Vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vmul(Vf a, Vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vdiv(Vf a, Vf b) { return {_mm512_div_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vfma(Vf a, Vf b, Vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ASHLAR_INLINE Vf vmax(Vf a, Vf b) { return {_mm512_max_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vmin(Vf a, Vf b) { return {_mm512_min_ps(a.v, b.v)}; }
ASHLAR_INLINE Vf vless(Vf a, Vf b) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), _mm512_set1_ps(1.0f))};
}
ASHLAR_INLINE Vf vabs(Vf a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }

ASHLAR_INLINE float vsum(Vf a) {
  const __m256 c = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 d = _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  const __m128 e = _mm_add_ps(d, _mm_movehl_ps(d, d));
  return _mm_cvtss_f32(_mm_add_ss(e, _mm_movehdup_ps(e)));
}
ASHLAR_INLINE float vmax_all(Vf a) {
  const __m256 c = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 d = _mm_max_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));
  const __m128 e = _mm_max_ps(d, _mm_movehl_ps(d, d));
  return _mm_cvtss_f32(_mm_max_ss(e, _mm_movehdup_ps(e)));
}
/// The trees of four registers in one; f joins two registers. Meanings: four_apart.h.
template <typename F>
ASHLAR_INLINE Vf reduce4(const Vf (&v)[4], F f) {
  const Vf ab =
      f({_mm512_shuffle_f32x4(v[0].v, v[1].v, 0x44)}, {_mm512_shuffle_f32x4(v[0].v, v[1].v, 0xee)});
  const Vf cd =
      f({_mm512_shuffle_f32x4(v[2].v, v[3].v, 0x44)}, {_mm512_shuffle_f32x4(v[2].v, v[3].v, 0xee)});
  const Vf q =
      f({_mm512_shuffle_f32x4(ab.v, cd.v, 0x88)}, {_mm512_shuffle_f32x4(ab.v, cd.v, 0xdd)});
  const Vf d = f(q, {_mm512_permute_ps(q.v, 0x4e)});
  const Vf e = f(d, {_mm512_movehdup_ps(d.v)});
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return {_mm512_permutexvar_ps(firsts, e.v)};
}
ASHLAR_INLINE Vf vsum4(const Vf (&v)[4]) { return reduce4(v, vadd); }
ASHLAR_INLINE Vf vmax4(const Vf (&v)[4]) { return reduce4(v, vmax); }
template <int kLane>
ASHLAR_INLINE Vf vspread(Vf a) {
  return {_mm512_permutexvar_ps(_mm512_set1_epi32(kLane), a.v)};
}
template <int H>
ASHLAR_INLINE Vf vswap(Vf a) {
  if constexpr (H == 8) return {_mm512_shuffle_f32x4(a.v, a.v, 0x4e)};
  if constexpr (H == 4) return {_mm512_shuffle_f32x4(a.v, a.v, 0xb1)};
  if constexpr (H == 2) return {_mm512_permute_ps(a.v, 0x4e)};
  return {_mm512_permute_ps(a.v, 0xb1)};
}
template <int H>
ASHLAR_INLINE Vf vnegate_high(Vf a) {
  constexpr __mmask16 mask = H == 8 ? 0xff00 : H == 4 ? 0xf0f0 : H == 2 ? 0xcccc : 0xaaaa;
  return {_mm512_mask_xor_ps(a.v, mask, a.v, _mm512_set1_ps(-0.0f))};
}

ASHLAR_INLINE Vi iset(int32_t x) { return {_mm512_set1_epi32(x)}; }
ASHLAR_INLINE Vi iload(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
ASHLAR_INLINE Vi iadd(Vi a, Vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
ASHLAR_INLINE Vi isub(Vi a, Vi b) { return {_mm512_sub_epi32(a.v, b.v)}; }
ASHLAR_INLINE Vi iand(Vi a, Vi b) { return {_mm512_and_si512(a.v, b.v)}; }
ASHLAR_INLINE Vi ixor(Vi a, Vi b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int N>
ASHLAR_INLINE Vi ishl(Vi a) {
  return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
ASHLAR_INLINE Vi ishr(Vi a) {
  return {_mm512_srli_epi32(a.v, N)};
}
template <int N>
ASHLAR_INLINE Vi isar(Vi a) {
  return {_mm512_srai_epi32(a.v, N)};
}
ASHLAR_INLINE Vi ibits(Vf a) { return {_mm512_castps_si512(a.v)}; }
ASHLAR_INLINE Vf vbits(Vi a) { return {_mm512_castsi512_ps(a.v)}; }
ASHLAR_INLINE Vf vfrom_int(Vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
ASHLAR_INLINE Vi iround(Vf a) { return {_mm512_cvtps_epi32(a.v)}; }
ASHLAR_INLINE Vi iround_wide(Vf a) { return iround(a); }
ASHLAR_INLINE uint32_t lanes_below(Vf a, Vf b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
ASHLAR_INLINE uint32_t lanes_below(Vi a, Vi b) { return _mm512_cmplt_epu32_mask(a.v, b.v); }
ASHLAR_INLINE Vf vscale(Vf a, Vf n) { return {_mm512_scalef_ps(a.v, n.v)}; }

ASHLAR_INLINE float half_value(uint16_t h) { return _cvtsh_ss(h); }
ASHLAR_INLINE uint16_t half_bits(float x) {
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}
ASHLAR_INLINE Vf vload_half(const std::byte* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
ASHLAR_INLINE void vstore_half(std::byte* p, Vf a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
ASHLAR_INLINE Vf vload_bfloat(const std::byte* p) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return vbits(ishl<16>({_mm512_cvtepu16_epi32(v)}));
}
ASHLAR_INLINE Vf vload_u8(const std::byte* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return vfrom_int({_mm512_cvtepu8_epi32(v)});
}
ASHLAR_INLINE Vi iload_u8(const std::byte* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
ASHLAR_INLINE Vf vload_u4(const std::byte* p) {
  const __m128i v = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(v, mask), high = _mm_and_si128(_mm_srli_epi16(v, 4), mask);
  return vfrom_int({_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high))});
}
ASHLAR_INLINE void istore_u8(std::byte* p, Vi a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

ASHLAR_INLINE void istore(std::byte* p, Vi a) { _mm512_storeu_si512(p, a.v); }
ASHLAR_INLINE void istore_i16(int16_t* p, Vi a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}
template <int kShift>
ASHLAR_INLINE Vi ijoin(Vi a, Vi b, Vi mask) {
  return {_mm512_ternarylogic_epi32(a.v, _mm512_slli_epi32(b.v, kShift), mask.v, 0xa8)};
}

template <int kShift, bool kSigned>
ASHLAR_INLINE Vf vbyte(Vi w) {
  if constexpr (kSigned) return vfrom_int(isar<24>(ishl<24 - kShift>(w)));
  return vfrom_int(iand(ishr<kShift>(w), iset(255)));
}
/// A permutation looks at the low four bits of an index only: it is a table of sixteen floats.
template <int kShift, bool kSigned>
ASHLAR_INLINE Vf vnibble(Vi w) {
  const __m512 table = kSigned
                           ? _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1)
                           : _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_permutexvar_ps(ishr<kShift>(w).v, table)};
}

ASHLAR_INLINE Vi spread_nibbles(Vi a) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i shift = _mm512_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
  const __m512i v = _mm512_srlv_epi32(_mm512_permutexvar_epi32(twice, a.v), shift);
  return {_mm512_and_si512(v, _mm512_set1_epi32(0x0f0f0f0f))};
}
ASHLAR_INLINE void vzip(Vf a, Vf b, Vf& lo, Vf& hi) {
  const __m512i l = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i h = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  lo.v = _mm512_permutex2var_ps(a.v, l, b.v);
  hi.v = _mm512_permutex2var_ps(a.v, h, b.v);
}

ASHLAR_INLINE void transpose16(const float* src, int64_t src_stride, float* dst,
                               int64_t dst_stride) {
  __m512 r[16], s[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(src + i * src_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  // r[4i + c]: column c (mod 4) of rows 4i … 4i+3 in each 128-bit block.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);  // blocks 0, 2
    const __m512 b = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xdd);  // blocks 1, 3
    const __m512 d = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88);
    const __m512 e = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xdd);
    _mm512_storeu_ps(dst + (c + 0) * dst_stride, _mm512_shuffle_f32x4(a, d, 0x88));
    _mm512_storeu_ps(dst + (c + 4) * dst_stride, _mm512_shuffle_f32x4(b, e, 0x88));
    _mm512_storeu_ps(dst + (c + 8) * dst_stride, _mm512_shuffle_f32x4(a, d, 0xdd));
    _mm512_storeu_ps(dst + (c + 12) * dst_stride, _mm512_shuffle_f32x4(b, e, 0xdd));
  }
}

}  // namespace
}  // namespace ashlar
