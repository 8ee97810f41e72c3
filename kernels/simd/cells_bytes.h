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
ASHLAR_INLINE Vi cell_dot4(Vi acc, Vi a, Vi b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(a.v), "v"(b.v));
  return acc;
}

struct CellCodes {
  Vi bytes;
};
template <int kShift, int kMask>
ASHLAR_INLINE CellCodes cell_codes(Vi x) {
  if constexpr (kMask == 255) {
    return {x};
  } else {
    return {iand(ishr<kShift>(x), iset(kMask * 0x01010101))};
  }
}
ASHLAR_INLINE CellCodes cell_add(CellCodes a, CellCodes b) { return {iadd(a.bytes, b.bytes)}; }

struct CellSum {
  Vi high, low;
};
ASHLAR_INLINE void clear(CellSum& a) { a.high = a.low = iset(0); }
struct CellWords {
  Vi high, low;
};
ASHLAR_INLINE CellSum cell_dot(CellSum a, CellCodes x, CellWords w) {
  return {cell_dot4(a.high, x.bytes, w.high), cell_dot4(a.low, x.bytes, w.low)};
}
ASHLAR_INLINE Vi cell_total(CellSum a) { return iadd(ishl<8>(a.high), a.low); }

/// x = 256·high_parts(x) + the low bytes as signed ones; sixteen bits each.
ASHLAR_INLINE __m256i high_parts(__m256i x) {
  return _mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(128)), 8);
}

ASHLAR_INLINE __m256i load_numbers(const int16_t* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
/// The low bytes of sixteen numbers as four words: byte b·kCodes + s of a cell's is byte b of word
/// s.
template <int kCodes>
ASHLAR_INLINE void words_of(__m256i numbers, int32_t (&words)[4]) {
  const __m128i places =
      kCodes == 1   ? _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
      : kCodes == 2 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                    : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i bytes = _mm_shuffle_epi8(_mm256_cvtepi16_epi8(numbers), places);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), bytes);
}
template <int kCodes>
ASHLAR_INLINE void cell_words(const int16_t* x, int32_t* out, int64_t stride) {
  const __m256i numbers = load_numbers(x);
  int32_t high[4], low[4];
  words_of<kCodes>(high_parts(numbers), high);
  words_of<kCodes>(numbers, low);
  for (int i = 0; i < 4; ++i, out += 2 * stride) {
    out[0] = high[i];
    out[stride] = low[i];
  }
}

/// Numbers that fit in signed bytes have one part.
constexpr int kShortWords = 1, kShortSums = 1;
struct ShortSum {
  Vi v;
};
ASHLAR_INLINE void clear(ShortSum& a) { a.v = iset(0); }
struct ShortWords {
  Vi v;
};
ASHLAR_INLINE ShortWords short_words(const int32_t* words, int64_t) { return {iset(words[0])}; }
ASHLAR_INLINE ShortSum cell_dot(ShortSum a, CellCodes x, ShortWords w) {
  return {cell_dot4(a.v, x.bytes, w.v)};
}
ASHLAR_INLINE Vi cell_total(ShortSum a) { return a.v; }
template <int kCodes>
ASHLAR_INLINE void arrange_short(const int16_t* x, int32_t* out, int64_t stride) {
  int32_t words[4];
  words_of<kCodes>(load_numbers(x), words);
  for (int i = 0; i < 4; ++i, out += stride) out[0] = words[i];
}

/// The high parts of kRows rows, then the low ones. Packing leaves in each quarter of a register
/// four rows of every sixteen.
template <int64_t kRows>
ASHLAR_INLINE void store_weights(int16_t* weights, int64_t row, const Vi (&x)[4]) {
  const __m512i a = _mm512_packs_epi32(x[0].v, x[1].v), b = _mm512_packs_epi32(x[2].v, x[3].v);
  const __m512i half = _mm512_set1_epi16(128), low = _mm512_set1_epi16(255);
  const __m512i high_parts = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                                                _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
  const __m512i low_parts = _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
  const __m512i cells = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i places = _mm512_set4_epi32(0x0f0d0e0c, 0x0b090a08, 0x07050604, 0x03010200);
  const auto store = [&](__m512i parts, std::byte * to) __attribute__((always_inline)) {
    _mm512_storeu_si512(to, _mm512_shuffle_epi8(_mm512_permutexvar_epi32(cells, parts), places));
  };
  std::byte* const to = reinterpret_cast<std::byte*>(weights) + row;
  store(high_parts, to);
  store(low_parts, to + kRows);
}
template <int64_t kRows>
ASHLAR_INLINE CellWords load_weights(const int16_t* weights, int64_t j) {
  const auto* from = reinterpret_cast<const std::byte*>(weights) + j;
  int32_t words[2];
  __builtin_memcpy(&words[0], from, sizeof(int32_t));
  __builtin_memcpy(&words[1], from + kRows, sizeof(int32_t));
  return {iset(words[0]), iset(words[1])};
}

}  // namespace
}  // namespace ashlar
