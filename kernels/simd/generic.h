#pragma once

// Sixteen float or int32 lanes in portable C++ (GCC/Clang vectors of 16 bytes). Every ISA header in
// this folder defines the same names with the same meaning, so that the kernels are written once
// and reduce in the same order everywhere: sixteen lanes, whatever the register width. Only vfma
// differs: here it rounds twice.
//
// Everything is in an anonymous namespace: code compiled with the flags of one ISA must never be
// merged by the linker with another translation unit's. For the same reason these headers and all
// *_impl.h avoid inline functions and templates of the standard library.

#include <cstddef>
#include <cstdint>

#define ASHLAR_INLINE inline __attribute__((always_inline))

namespace ashlar {
namespace {

using f32x4 = float __attribute__((vector_size(16)));
using i32x4 = int32_t __attribute__((vector_size(16)));
using u32x4 = uint32_t __attribute__((vector_size(16)));

struct Vf {
  f32x4 q[4];
};
struct Vi {
  i32x4 q[4];
};

constexpr int kLanes = 16;
/// Tokens per register tile of the fp32 and of the int8 linear kernel.
constexpr int kTileF32 = 2;
constexpr int kTileInt8 = 2;
/// Register block of attention: queries × registers of slots or values (1, 2 or 4).
constexpr int kQueryBlock = 1;
constexpr int kQueryColumns = 2;
/// Registers of sums that a loop over codes has room for.
constexpr int kCodeSums = 2;
/// Register block of the dense Hadamard factor: output slabs (2 or 4) × registers.
constexpr int kSignedRows = 2;
constexpr int kSignedColumns = 1;

template <typename F>
ASHLAR_INLINE Vf map_f(F f) {
  Vf r;
  for (int i = 0; i < 4; ++i) r.q[i] = f(i);
  return r;
}
template <typename F>
ASHLAR_INLINE Vi map_i(F f) {
  Vi r;
  for (int i = 0; i < 4; ++i) r.q[i] = f(i);
  return r;
}

ASHLAR_INLINE Vf vset(float x) {
  return map_f([&](int) { return f32x4{x, x, x, x}; });
}
ASHLAR_INLINE Vf vzero() { return vset(0.0f); }
ASHLAR_INLINE Vf vload(const float* p) {
  Vf r;
  __builtin_memcpy(&r, p, sizeof(r));
  return r;
}
ASHLAR_INLINE void vstore(float* p, Vf a) { __builtin_memcpy(p, &a, sizeof(a)); }
/// The first n < 16 lanes; the others are zero.
ASHLAR_INLINE Vf vload_n(const float* p, int64_t n) {
  Vf r = vzero();
  __builtin_memcpy(&r, p, static_cast<size_t>(n) * sizeof(float));
  return r;
}
ASHLAR_INLINE void vstore_n(float* p, int64_t n, Vf a) {
  __builtin_memcpy(p, &a, static_cast<size_t>(n) * sizeof(float));
}

ASHLAR_INLINE Vf vadd(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] + b.q[i]; });
}
ASHLAR_INLINE Vf vsub(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] - b.q[i]; });
}
ASHLAR_INLINE Vf vmul(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] * b.q[i]; });
}
ASHLAR_INLINE Vf vdiv(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] / b.q[i]; });
}
/// a·b + c; one rounding where the ISA has FMA, two here.
ASHLAR_INLINE Vf vfma(Vf a, Vf b, Vf c) {
  return map_f([&](int i) { return a.q[i] * b.q[i] + c.q[i]; });
}
/// a > b ? a : b, so b when either is NaN; vmin likewise.
ASHLAR_INLINE Vf vmax(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] > b.q[i] ? a.q[i] : b.q[i]; });
}
ASHLAR_INLINE Vf vmin(Vf a, Vf b) {
  return map_f([&](int i) { return a.q[i] < b.q[i] ? a.q[i] : b.q[i]; });
}
/// 1 where a < b, else 0.
ASHLAR_INLINE Vf vless(Vf a, Vf b) {
  return map_f([&](int i) { return (f32x4)((a.q[i] < b.q[i]) & (i32x4)f32x4{1, 1, 1, 1}); });
}
ASHLAR_INLINE Vf vabs(Vf a) {
  return map_f([&](int i) { return (f32x4)((i32x4)a.q[i] & 0x7fffffff); });
}

/// Sum in the order of a halving tree: lanes i and i+8, then i+4, i+2, i+1.
ASHLAR_INLINE float vsum(Vf a) {
  const f32x4 b = (a.q[0] + a.q[2]) + (a.q[1] + a.q[3]);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
ASHLAR_INLINE float vmax_all(Vf a) {
  const Vf b = vmax(a, Vf{{a.q[2], a.q[3], a.q[0], a.q[1]}});
  const f32x4 c = b.q[0] > b.q[1] ? b.q[0] : b.q[1];
  const float d = c[0] > c[2] ? c[0] : c[2];
  const float e = c[1] > c[3] ? c[1] : c[3];
  return d > e ? d : e;
}
/// Lane kLane in every lane.
template <int kLane>
ASHLAR_INLINE Vf vspread(Vf a) {
  return vset(a.q[kLane / 4][kLane % 4]);
}
/// Lane i takes lane i ^ H.
template <int H>
ASHLAR_INLINE Vf vswap(Vf a) {
  if constexpr (H == 8) return Vf{{a.q[2], a.q[3], a.q[0], a.q[1]}};
  if constexpr (H == 4) return Vf{{a.q[1], a.q[0], a.q[3], a.q[2]}};
  return map_f([&](int i) {
    const f32x4 x = a.q[i];
    return H == 2 ? f32x4{x[2], x[3], x[0], x[1]} : f32x4{x[1], x[0], x[3], x[2]};
  });
}
/// Negates the lanes i with i & H.
template <int H>
ASHLAR_INLINE Vf vnegate_high(Vf a) {
  constexpr int32_t s = INT32_MIN;
  return map_f([&](int i) {
    const i32x4 mask = H == 1             ? i32x4{0, s, 0, s}
                       : H == 2           ? i32x4{0, 0, s, s}
                       : (4 * i & H) != 0 ? i32x4{s, s, s, s}
                                          : i32x4{0, 0, 0, 0};
    return (f32x4)((i32x4)a.q[i] ^ mask);
  });
}

ASHLAR_INLINE Vi iset(int32_t x) {
  return map_i([&](int) { return i32x4{x, x, x, x}; });
}
ASHLAR_INLINE Vi iload(const std::byte* p) {
  Vi r;
  __builtin_memcpy(&r, p, sizeof(r));
  return r;
}
ASHLAR_INLINE Vi iadd(Vi a, Vi b) {
  return map_i([&](int i) { return (i32x4)((u32x4)a.q[i] + (u32x4)b.q[i]); });
}
ASHLAR_INLINE Vi isub(Vi a, Vi b) {
  return map_i([&](int i) { return (i32x4)((u32x4)a.q[i] - (u32x4)b.q[i]); });
}
ASHLAR_INLINE Vi iand(Vi a, Vi b) {
  return map_i([&](int i) { return a.q[i] & b.q[i]; });
}
ASHLAR_INLINE Vi ixor(Vi a, Vi b) {
  return map_i([&](int i) { return a.q[i] ^ b.q[i]; });
}
template <int N>
ASHLAR_INLINE Vi ishl(Vi a) {
  return map_i([&](int i) { return (i32x4)((u32x4)a.q[i] << N); });
}
template <int N>
ASHLAR_INLINE Vi ishr(Vi a) {
  return map_i([&](int i) { return (i32x4)((u32x4)a.q[i] >> N); });
}
template <int N>
ASHLAR_INLINE Vi isar(Vi a) {
  return map_i([&](int i) { return a.q[i] >> N; });
}
ASHLAR_INLINE Vi ibits(Vf a) {
  return map_i([&](int i) { return (i32x4)a.q[i]; });
}
ASHLAR_INLINE Vf vbits(Vi a) {
  return map_f([&](int i) { return (f32x4)a.q[i]; });
}
/// int32 to float, round to nearest even.
ASHLAR_INLINE Vf vfrom_int(Vi a) {
  return map_f([&](int i) { return __builtin_convertvector(a.q[i], f32x4); });
}
/// Nearest integer, ties to even, for |a| < 2^22; other values give some integer, never a trap.
ASHLAR_INLINE Vi iround(Vf a) {
  return map_i([&](int i) {
    const f32x4 t = a.q[i] + 0x1.8p23f;
    return (i32x4)((u32x4)t - 0x4b400000u);
  });
}
/// The same for 0 ≤ a < 2^31.
ASHLAR_INLINE Vi iround_wide(Vf a) {
  return map_i([&](int i) {
    // From 2^23 on floats are whole.
    const f32x4 small = (a.q[i] + 0x1p23f) - 0x1p23f;
    return __builtin_convertvector(a.q[i] < 0x1p23f ? small : a.q[i], i32x4);
  });
}
/// Which lanes are below, one bit each; NaN is below nothing. Integers: as unsigned ones.
ASHLAR_INLINE uint32_t lanes_below(Vf a, Vf b) {
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= (a.q[i / 4][i % 4] < b.q[i / 4][i % 4] ? 1u : 0u) << i;
  return lanes;
}
ASHLAR_INLINE uint32_t lanes_below(Vi a, Vi b) {
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) {
    const auto x = static_cast<uint32_t>(a.q[i / 4][i % 4]);
    lanes |= (x < static_cast<uint32_t>(b.q[i / 4][i % 4]) ? 1u : 0u) << i;
  }
  return lanes;
}
/// a·2^n for whole n: in two factors, so that neither leaves the range of normal floats.
ASHLAR_INLINE Vf vscale(Vf a, Vf n) {
  const Vi whole = iround(n), half = isar<1>(whole), one = iset(127);
  const Vf by_half = vbits(ishl<23>(iadd(half, one)));
  return vmul(vmul(a, by_half), vbits(ishl<23>(iadd(isub(whole, half), one))));
}

/// binary16 to float, exact; float to binary16, nearest even.
ASHLAR_INLINE float half_value(uint16_t h) {
  const uint32_t magnitude = h & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  uint32_t bits = 0;
  if (magnitude >= 0x7c00u) {
    bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  } else {  // the multiplication by 2^112 normalises subnormals and is exact
    float scaled = 0;
    const uint32_t shifted = magnitude << 13;
    __builtin_memcpy(&scaled, &shifted, 4);
    scaled *= 0x1p112f;
    __builtin_memcpy(&bits, &scaled, 4);
  }
  bits |= sign;
  float value = 0;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
ASHLAR_INLINE uint16_t half_bits(float value) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: let the adder round at 2^-24
    float x = 0;
    __builtin_memcpy(&x, &magnitude, 4);
    x += 0.5f;
    __builtin_memcpy(&bits, &x, 4);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}
ASHLAR_INLINE Vf vload_half(const std::byte* p) {
  uint16_t h[kLanes];
  float x[kLanes];
  __builtin_memcpy(h, p, sizeof(h));
  for (int i = 0; i < kLanes; ++i) x[i] = half_value(h[i]);
  return vload(x);
}
ASHLAR_INLINE void vstore_half(std::byte* p, Vf a) {
  float x[kLanes];
  uint16_t h[kLanes];
  vstore(x, a);
  for (int i = 0; i < kLanes; ++i) h[i] = half_bits(x[i]);
  __builtin_memcpy(p, h, sizeof(h));
}
ASHLAR_INLINE Vf vload_bfloat(const std::byte* p) {
  uint16_t b[kLanes];
  int32_t x[kLanes];
  __builtin_memcpy(b, p, sizeof(b));
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<int32_t>(static_cast<uint32_t>(b[i]) << 16);
  Vi r;
  __builtin_memcpy(&r, x, sizeof(r));
  return vbits(r);
}
/// Sixteen unsigned bytes as floats.
ASHLAR_INLINE Vf vload_u8(const std::byte* p) {
  float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(static_cast<uint8_t>(p[i]));
  return vload(x);
}
/// Sixteen unsigned bytes.
ASHLAR_INLINE Vi iload_u8(const std::byte* p) {
  int32_t x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<uint8_t>(p[i]);
  Vi r;
  __builtin_memcpy(&r, x, sizeof(r));
  return r;
}
ASHLAR_INLINE void istore(std::byte* p, Vi a) { __builtin_memcpy(p, &a, sizeof(a)); }
/// The low sixteen bits of each lane.
ASHLAR_INLINE void istore_i16(int16_t* p, Vi a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int16_t>(a.q[i / 4][i % 4]);
}
/// (a | b << kShift) & mask.
template <int kShift>
ASHLAR_INLINE Vi ijoin(Vi a, Vi b, Vi mask) {
  return map_i([&](int i) { return (a.q[i] | (i32x4)((u32x4)b.q[i] << kShift)) & mask.q[i]; });
}
/// Sixteen nibbles of eight bytes as floats, low nibble first.
ASHLAR_INLINE Vf vload_u4(const std::byte* p) {
  float x[kLanes];
  for (int i = 0; i < kLanes / 2; ++i) {
    const unsigned b = static_cast<uint8_t>(p[i]);
    x[2 * i] = static_cast<float>(b & 15u);
    x[2 * i + 1] = static_cast<float>(b >> 4);
  }
  return vload(x);
}
/// The low byte of each lane.
ASHLAR_INLINE void istore_u8(std::byte* p, Vi a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::byte>(a.q[i / 4][i % 4] & 0xff);
}

/// The byte (nibble) at bit kShift of each lane as float; two's complement if kSigned.
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

/// Lanes 2i and 2i + 1 take the low and the high nibbles of the bytes of lane i < 8.
ASHLAR_INLINE Vi spread_nibbles(Vi a) {
  Vi r;
  for (int i = 0; i < kLanes; ++i) {
    const int32_t b = a.q[i / 8][i / 2 % 4];
    r.q[i / 4][i % 4] = (i % 2 == 0 ? b : b >> 4) & 0x0f0f0f0f;
  }
  return r;
}
/// {a_0, b_0, a_1, b_1, …} in lo and hi.
ASHLAR_INLINE void vzip(Vf a, Vf b, Vf& lo, Vf& hi) {
  float x[kLanes], y[kLanes], z[2 * kLanes];
  vstore(x, a);
  vstore(y, b);
  for (int i = 0; i < kLanes; ++i) z[2 * i] = x[i], z[2 * i + 1] = y[i];
  lo = vload(z);
  hi = vload(z + kLanes);
}

/// dst[j·dst_stride + i] = src[i·src_stride + j] for a block of 16 × 16.
ASHLAR_INLINE void transpose16(const float* src, int64_t src_stride, float* dst,
                               int64_t dst_stride) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) dst[j * dst_stride + i] = src[i * src_stride + j];
  }
}

/// acc + low·low + high·high of the signed sixteen-bit halves of each lane, exact in int32.
ASHLAR_INLINE Vi idot2(Vi acc, Vi a, Vi b) {
  return map_i([&](int i) {
    const i32x4 low = (i32x4)((u32x4)a.q[i] << 16) >> 16, high = a.q[i] >> 16;
    const i32x4 x = (i32x4)((u32x4)b.q[i] << 16) >> 16, y = b.q[i] >> 16;
    return acc.q[i] + low * x + high * y;
  });
}

// Integer dot products of four unsigned weight bytes per lane with four activation codes that all
// lanes share: idot(acc, w, x) = acc + Σ_j w_j·x_j, exact in int32. `DotWeights` is the form that
// idot wants; kDotBytes are the bytes of four activation codes as store_codes4 lays them out.
struct DotWeights {
  Vi even;
  Vi odd;
};
constexpr int kDotBytes = 8;

ASHLAR_INLINE DotWeights dot_weights(Vi w) { return {w, w}; }
ASHLAR_INLINE void store_codes4(std::byte* p, const int32_t* code) {
  const int16_t x[4] = {static_cast<int16_t>(code[0]), static_cast<int16_t>(code[2]),
                        static_cast<int16_t>(code[1]), static_cast<int16_t>(code[3])};
  __builtin_memcpy(p, x, sizeof(x));
}
ASHLAR_INLINE Vi idot(Vi acc, DotWeights w, const std::byte* p) {
  int16_t x[4];
  __builtin_memcpy(x, p, sizeof(x));
  const Vi mask = iset(255);
  const Vi b0 = iand(w.even, mask), b2 = iand(ishr<16>(w.even), mask);
  const Vi b1 = iand(ishr<8>(w.even), mask), b3 = ishr<24>(w.even);
  return map_i([&](int i) {
    return acc.q[i] + b0.q[i] * x[0] + b2.q[i] * x[1] + b1.q[i] * x[2] + b3.q[i] * x[3];
  });
}

}  // namespace
}  // namespace ashlar

#include "kernels/simd/cells_pairs.h"
#include "kernels/simd/four_apart.h"
