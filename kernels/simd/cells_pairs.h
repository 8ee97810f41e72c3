#pragma once

// Included at the end of an ISA header. Products of cells of codes (kernels/kv_page.h) with whole
// numbers of sixteen bits, exact in int32: a lane's four bytes as two pairs of sixteen bits, for
// processors that multiply those at once (idot2).

namespace ashlar {
namespace {

/// Registers of a CellSum.
constexpr int kCellSums = 1;

/// One code of each byte of a lane: of bytes 0 and 2, of 1 and 3.
struct CellCodes {
  Vi even, odd;
};
/// Those at bit kShift of each byte, under a mask.
template <int kShift, int kMask>
ASHLAR_INLINE CellCodes cell_codes(Vi x) {
  const Vi mask = iset(kMask | kMask << 16);
  return {iand(ishr<kShift>(x), mask), iand(ishr<8 + kShift>(x), mask)};
}
ASHLAR_INLINE CellCodes cell_add(CellCodes a, CellCodes b) {
  return {iadd(a.even, b.even), iadd(a.odd, b.odd)};
}

struct CellSum {
  Vi v;
};
ASHLAR_INLINE void clear(CellSum& a) { a.v = iset(0); }
/// Four numbers, the same in all lanes: two words of cell_words or store_weights.
struct CellWords {
  Vi first, second;
};
/// a + Σ over a lane's bytes of code · number.
ASHLAR_INLINE CellSum cell_dot(CellSum a, CellCodes x, CellWords w) {
  return {idot2(idot2(a.v, x.even, w.first), x.odd, w.second)};
}
ASHLAR_INLINE Vi cell_total(CellSum a) { return a.v; }

/// The words of sixteen numbers as cells of keys whose bytes hold kCodes codes each are multiplied,
/// cell by cell, two for each code of a byte: x[b·kCodes + s] multiplies code s of byte b. Words
/// are `stride` apart.
template <int kCodes>
ASHLAR_INLINE void cell_words(const int16_t* x, int32_t* out, int64_t stride) {
  for (const int16_t* end = x + kLanes; x != end; x += 4 * kCodes) {
    for (int s = 0; s < kCodes; ++s, out += 2 * stride) {
      const int16_t even[2] = {x[s], x[2 * kCodes + s]};
      const int16_t odd[2] = {x[kCodes + s], x[3 * kCodes + s]};
      __builtin_memcpy(out, even, sizeof(even));
      __builtin_memcpy(out + stride, odd, sizeof(odd));
    }
  }
}

/// Numbers that fit in signed bytes: here they are multiplied like the others.
constexpr int kShortWords = 2, kShortSums = kCellSums;
using ShortSum = CellSum;
using ShortWords = CellWords;
ASHLAR_INLINE ShortWords short_words(const int32_t* words, int64_t stride) {
  return {iset(words[0]), iset(words[stride])};
}
template <int kCodes>
ASHLAR_INLINE void arrange_short(const int16_t* x, int32_t* out, int64_t stride) {
  cell_words<kCodes>(x, out, stride);
}

/// Keeps the numbers, none negative, of rows `row` … `row` + 63 of kRows as cells of values are
/// multiplied; rows of a cell lie in the order 0 2 1 3.
template <int64_t kRows>
ASHLAR_INLINE void store_weights(int16_t* weights, int64_t row, const Vi (&x)[4]) {
  for (int c = 0; c < 4; ++c) istore_i16(weights + row + kLanes * c, x[c]);
}
/// Those of rows j … j + 3.
template <int64_t kRows>
ASHLAR_INLINE CellWords load_weights(const int16_t* weights, int64_t j) {
  int32_t words[2];
  __builtin_memcpy(words, weights + j, sizeof(words));
  return {iset(words[0]), iset(words[1])};
}

}  // namespace
}  // namespace ashlar
