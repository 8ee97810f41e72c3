#pragma once

// Included at the end of an ISA header. Products of cells of codes with whole numbers of sixteen
// bits as in cells_pairs.h, for processors that multiply a lane's four bytes at once (VNNI): a
// number is 256·high + low, both signed bytes, so that each part has a sum of its own and codes
// need no unpacking into sixteen bits.

namespace ashlar {
namespace {

constexpr int kCellSums = 2;

/// acc + Σ over a lane's bytes of a·b, a unsigned and b signed. In assembly: GCC 12 copies the
/// accumulators of the intrinsic from register to register.
ASHLAR_INLINE void cell_dot4(Vi& acc, Vi a, Vi b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
}

struct CellCodes {
  Vi bytes;
};
template <int kShift, int kMask>
ASHLAR_INLINE CellCodes cell_codes(Vi x) {
  if constexpr (kMask == 255) return {x};
  return {iand(ishr<kShift>(x), iset(kMask * 0x01010101))};
}
ASHLAR_INLINE CellCodes cell_add(CellCodes a, CellCodes b) { return {iadd(a.bytes, b.bytes)}; }

struct CellSum {
  Vi high, low;
};
ASHLAR_INLINE CellSum cell_zero() { return {iset(0), iset(0)}; }
ASHLAR_INLINE void cell_dot(CellSum& a, CellCodes x, Vi high, Vi low) {
  cell_dot4(a.high, x.bytes, high);
  cell_dot4(a.low, x.bytes, low);
}
ASHLAR_INLINE Vi cell_total(CellSum a) { return iadd(ishl<8>(a.high), a.low); }

/// x = 256·high_part(x) + the low byte as a signed one.
ASHLAR_INLINE int8_t high_part(int16_t x) { return static_cast<int8_t>((x + 128) >> 8); }

template <int kCodes>
ASHLAR_INLINE void cell_words(const int16_t* x, int32_t* out, int64_t stride) {
  for (int s = 0; s < kCodes; ++s, out += 2 * stride) {
    int8_t high[4], low[4];
    for (int b = 0; b < 4; ++b) {
      high[b] = high_part(x[b * kCodes + s]);
      low[b] = static_cast<int8_t>(x[b * kCodes + s]);
    }
    __builtin_memcpy(out, high, sizeof(high));
    __builtin_memcpy(out + stride, low, sizeof(low));
  }
}

/// 64 high parts, then 64 low ones.
ASHLAR_INLINE void store_weights(int16_t* weights, int64_t c, Vi x) {
  auto* out = reinterpret_cast<std::byte*>(weights) + kLanes * c;
  const Vi ordered = {_mm512_shuffle_epi32(x.v, _MM_PERM_DBCA)};
  istore_u8(out, isar<8>(iadd(ordered, iset(128))));
  istore_u8(out + 64, ordered);
}
ASHLAR_INLINE void cell_weights(const int16_t* weights, int64_t j, Vi& high, Vi& low) {
  const auto* from = reinterpret_cast<const std::byte*>(weights) + j;
  int32_t words[2];
  __builtin_memcpy(&words[0], from, sizeof(int32_t));
  __builtin_memcpy(&words[1], from + 64, sizeof(int32_t));
  high = iset(words[0]);
  low = iset(words[1]);
}

}  // namespace
}  // namespace ashlar
