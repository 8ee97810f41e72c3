#pragma once

// Integer dot products for AVX-512 without VNNI: bytes widened to 16 bits.

#include "kernels/simd/avx512.h"

namespace ashlar {
namespace {

ASHLAR_INLINE Vi idot2(Vi acc, Vi a, Vi b) {
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(a.v, b.v))};
}

struct DotWeights {
  __m512i even, odd;
};
constexpr int kDotBytes = 8;

ASHLAR_INLINE DotWeights dot_weights(Vi w) {
  return {_mm512_and_si512(w.v, _mm512_set1_epi16(255)), _mm512_srli_epi16(w.v, 8)};
}
ASHLAR_INLINE void store_codes4(std::byte* p, const int32_t* code) {
  const int16_t x[4] = {static_cast<int16_t>(code[0]), static_cast<int16_t>(code[2]),
                        static_cast<int16_t>(code[1]), static_cast<int16_t>(code[3])};
  __builtin_memcpy(p, x, sizeof(x));
}
ASHLAR_INLINE Vi idot(Vi acc, DotWeights w, const std::byte* p) {
  int32_t x[2];
  __builtin_memcpy(x, p, sizeof(x));
  acc.v = _mm512_add_epi32(acc.v, _mm512_madd_epi16(w.even, _mm512_set1_epi32(x[0])));
  acc.v = _mm512_add_epi32(acc.v, _mm512_madd_epi16(w.odd, _mm512_set1_epi32(x[1])));
  return acc;
}

}  // namespace
}  // namespace ashlar

#include "kernels/simd/cells_pairs.h"
