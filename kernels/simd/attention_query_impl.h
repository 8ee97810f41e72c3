#pragma once

// Included after one ISA header. What attention keeps of its queries while it goes through tiles.

#include "kernels/simd/attention_direct_impl.h"

namespace ashlar {
namespace {

/// The slots [begin, end) of a tile that a row sees; end ≤ begin: none.
struct Span {
  int64_t begin;
  int64_t end;
};

/// The online softmax of some queries, one entry per query.
struct SoftmaxState {
  float* max;
  float* sum;
  float* base;  ///< Σ p_j·min_j, which every element of acc lacks
  float* acc;   ///< [queries, stride]
  int64_t stride;
};

/// The queries of a chunk of rows, element by element, so that one pointer serves a block of them.
struct PackedQueries {
  float* q;           ///< [key_dim, stride], for keys that are numbers
  bool has_q;         ///< whether it has been packed, which waits for such keys
  CodecKind codec;    ///< whose codes q is rounded for; one of numbers: it has not been yet
  int16_t* rounded;   ///< Q, [stride, pad16(key_dim)], zeros behind key_dim
  int32_t* words;     ///< Q as keys of kind `arranged` are multiplied, [pad16(key_dim) / 2, stride]
  TileKind arranged;  ///< a kind of numbers: Q has not been arranged yet
  int64_t stride;     ///< queries
  float* sum;         ///< scale·Σ_i q_i of each
  float* unit;        ///< scale·u of each
  float* rest;        ///< scale·m·Σ_i (q_i − u·Q_i) of each
};

/// Words of sixteen numbers.
template <TileKind kKind>
constexpr int64_t kSixteenWords =
    kKind == TileKind::kPairs ? kLanes / 2 : kLanes / kCellUnits* kWords<kKind>;
template <TileKind kKind>
void arrange_words(const PackedQueries& packed, int64_t dim) {
  const int64_t width = pad16(dim);
  for (int64_t query = 0; query < packed.stride; ++query) {
    const int16_t* x = packed.rounded + query * width;
    int32_t* out = packed.words + query;
    for (int64_t i = 0; i < width; i += kLanes, out += kSixteenWords<kKind> * packed.stride) {
      if constexpr (kKind == TileKind::kPairs) {
        for (int64_t w = 0; w < kLanes / 2; ++w) {
          __builtin_memcpy(out + w * packed.stride, x + i + 2 * w, sizeof(*out));
        }
      } else if constexpr (kShortQueries<kKind>) {
        arrange_short<kByteCodes<kKind>>(x + i, out, packed.stride);
      } else {
        cell_words<kByteCodes<kKind>>(x + i, out, packed.stride);
      }
    }
  }
}

/// Arranges Q for keys of a kind of codes.
void arrange(PackedQueries& packed, int64_t dim, TileKind kind) {
  if (packed.arranged == kind) return;
  packed.arranged = kind;
  with_tile(kind, [&](auto tag) {
    if constexpr (!decltype(tag)::numbers) arrange_words<decltype(tag)::value>(packed, dim);
  });
}

struct QueryBlock {
  const float* q;        ///< element 0 of the first query; element i is i·q_stride floats on
  const int32_t* words;  ///< likewise
  int64_t q_stride;
  float sum[kQueryBlock];   ///< scale·Σ_i q_i
  float unit[kQueryBlock];  ///< scale·u
  float rest[kQueryBlock];  ///< scale·m·Σ_i (q_i − u·Q_i)
  float* p[kQueryBlock];    ///< of its slots scaled scores, then probabilities before normalisation
  alignas(64) float alpha[kLanes];                           ///< the first kQueryBlock of them
  alignas(64) float weight_unit[kLanes];                     ///< w, likewise
  alignas(64) int16_t weights[kQueryBlock][kAttentionPair];  ///< W as the values are multiplied
  int64_t first;  ///< index of the first query; the others follow
  Span live;
};

/// Codes are multiplied with numbers of this size at most: 127·256 + 127, the largest whose two
/// bytes are both signed ones.
constexpr int64_t kLevels = 32639;
/// Sums of q8 codes and queries stay below 2^31 for keys of any width.
ASHLAR_INLINE float query_levels(int64_t dim) {
  const int64_t most = 0x7fffffff / (255 * dim);
  return static_cast<float>(most < kLevels ? most : kLevels);
}
/// What queries are rounded to for keys of a codec, and the middle m of the codes where that is a
/// signed byte.
struct QueryRounding {
  float levels, middle;
};
ASHLAR_INLINE QueryRounding query_rounding(CodecKind codec, int64_t dim) {
  if (codec == CodecKind::kQ8) return {query_levels(dim), 0.0f};
  return {127.0f, 0.5f * levels_of(codec)};
}
/// What largest / levels is rounded to, and what to multiply with for it: 0 where the largest is
/// too small to divide by, and nothing is lost by leaving it out.
struct Rounding {
  float unit, inverse;
};
constexpr float kLeastRounded = 1e-30f;
ASHLAR_INLINE Rounding rounding_of(float largest, float levels) {
  if (largest < kLeastRounded) return {0.0f, 0.0f};
  return {largest / levels, levels / largest};
}

struct Rounded {
  float unit, rest;
};
/// Rounds x [dim] to whole numbers X of at most `levels` with x_i ≈ u·X_i, zeros up to pad16(dim),
/// and returns u and Σ_i (x_i − u·X_i).
ASHLAR_INLINE Rounded round_numbers(const float* x, int64_t dim, float levels, int16_t* out) {
  Vf top = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) { top = vmax(top, vabs(vload_span(x + i, n))); });
  const Rounding r = rounding_of(vmax_all(top), levels);
  Vf rest = vzero();
  for_spans(dim, [&](int64_t i, int64_t n) {
    const Vf scaled = vmul(vload_span(x + i, n), vset(r.inverse));
    const Vi rounded = iround(vmax(vmin(scaled, vset(levels)), vset(-levels)));
    rest = vadd(rest, vsub(scaled, vfrom_int(rounded)));
    istore_i16(out + i, rounded);
  });
  return {r.unit, r.unit * vsum(rest)};
}

}  // namespace
}  // namespace ashlar
