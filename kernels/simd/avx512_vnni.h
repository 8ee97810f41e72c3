#pragma once

// Integer dot products with VNNI: vpdpbusd adds four products of unsigned and signed bytes to an
// int32 without intermediate saturation.

#include "kernels/simd/avx512.h"

namespace ashlar {
namespace {

/// In assembly: GCC 12 copies the accumulators of the intrinsic from register to register.
ASHLAR_INLINE Vi idot2(Vi acc, Vi a, Vi b) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
}

struct DotWeights {
  __m512i bytes;
};
constexpr int kDotBytes = 4;

ASHLAR_INLINE DotWeights dot_weights(Vi w) { return {w.v}; }
ASHLAR_INLINE void store_codes4(std::byte* p, const int32_t* code) {
  const int8_t x[4] = {static_cast<int8_t>(code[0]), static_cast<int8_t>(code[1]),
                       static_cast<int8_t>(code[2]), static_cast<int8_t>(code[3])};
  __builtin_memcpy(p, x, sizeof(x));
}
ASHLAR_INLINE Vi idot(Vi acc, DotWeights w, const std::byte* p) {
  int32_t x = 0;
  __builtin_memcpy(&x, p, sizeof(x));
  return {_mm512_dpbusd_epi32(acc.v, w.bytes, _mm512_set1_epi32(x))};
}

}  // namespace
}  // namespace ashlar

#include "kernels/simd/cells_bytes.h"
