#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention/row_kernels.h"

// Fixed 64-byte lanes for the row kernels (GCC vector extensions). Sums are kept lane-wise and
// folded in one fixed order, which makes them the same on every ISA.

#define ASHLAR_INLINE __attribute__((always_inline)) inline

namespace ashlar::rows {

typedef float FloatLanes __attribute__((vector_size(64)));
typedef double DoubleLanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef uint32_t UintLanes __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));

template <typename T>
struct LanesOf {
  using Type = FloatLanes;
};
template <>
struct LanesOf<double> {
  using Type = DoubleLanes;
};
template <typename T>
using Lanes = typename LanesOf<T>::Type;
/// Elements per lane group: 16 floats or 8 doubles.
template <typename T>
inline constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(Accumulate<T>));

ASHLAR_INLINE void load(const float* p, FloatLanes& out) { std::memcpy(&out, p, 64); }
ASHLAR_INLINE void load(const double* p, DoubleLanes& out) { std::memcpy(&out, p, 64); }
ASHLAR_INLINE void load(const Bf16* p, FloatLanes& out) {
  HalfBits bits;
  std::memcpy(&bits, p, 32);
  const UintLanes wide = __builtin_convertvector(bits, UintLanes) << 16;
  std::memcpy(&out, &wide, 64);
}
ASHLAR_INLINE void store(float* p, const FloatLanes& v) { std::memcpy(p, &v, 64); }
ASHLAR_INLINE void store(double* p, const DoubleLanes& v) { std::memcpy(p, &v, 64); }
// Round to nearest even. NaN survives: its quiet bit is set when the payload would vanish.
ASHLAR_INLINE void store(Bf16* p, const FloatLanes& v) {
  UintLanes bits;
  std::memcpy(&bits, &v, 64);
  const UintLanes rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UintLanes nan = (bits >> 16) | 0x40u;
  const UintLanes out = (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
  const HalfBits narrow = __builtin_convertvector(out, HalfBits);
  std::memcpy(p, &narrow, 32);
}

ASHLAR_INLINE float get(const float* p) { return *p; }
ASHLAR_INLINE double get(const double* p) { return *p; }
ASHLAR_INLINE float get(const Bf16* p) {
  return std::bit_cast<float>(static_cast<uint32_t>(p->bits) << 16);
}
ASHLAR_INLINE void put(float* p, float v) { *p = v; }
ASHLAR_INLINE void put(double* p, double v) { *p = v; }
ASHLAR_INLINE void put(Bf16* p, float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  p->bits = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u
                                      : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

ASHLAR_INLINE float fold(const FloatLanes& v) {
  float a[16];
  std::memcpy(a, &v, 64);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  }
  return a[0];
}
ASHLAR_INLINE double fold(const DoubleLanes& v) {
  double a[8];
  std::memcpy(a, &v, 64);
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  }
  return a[0];
}

// e^x for |x| ≤ 87: Cody–Waite reduction x = n·ln2 + r, |r| ≤ ln2/2, and the degree-6
// Taylor–minimax polynomial of Cephes' expf; relative error below 2 ulp. Outside the range the
// argument is held at the border (e^-87 ≈ 1.6e-38), which is all a softmax or a sigmoid needs.
ASHLAR_INLINE FloatLanes exponential(FloatLanes x) {
  const FloatLanes high = FloatLanes{} + 87.0f, low = FloatLanes{} - 87.0f;
  x = x > high ? high : x;
  x = x < low ? low : x;
  const FloatLanes magic = FloatLanes{} + 12582912.0f;  // 1.5·2^23 rounds to the nearest integer
  const FloatLanes n = (x * 1.44269504088896341f + magic) - magic;
  const FloatLanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  FloatLanes p = FloatLanes{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntLanes power = (__builtin_convertvector(n, IntLanes) + 127) << 23;
  FloatLanes scale;
  std::memcpy(&scale, &power, 64);
  return p * scale;
}
ASHLAR_INLINE DoubleLanes exponential(DoubleLanes x) {
  for (int i = 0; i < 8; ++i) x[i] = std::exp(x[i]);
  return x;
}
// One element by the same operations, so that a tail does not differ from the body.
ASHLAR_INLINE float exponential(float x) { return exponential(FloatLanes{} + x)[0]; }
ASHLAR_INLINE double exponential(double x) { return std::exp(x); }

}  // namespace ashlar::rows
