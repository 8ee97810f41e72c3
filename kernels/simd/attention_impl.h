#pragma once

// Included after one ISA header.
// Online softmax (Milakov & Gimelshein, arXiv 1805.02867) over fixed tiles of 64 slots, as in
// FlashAttention (arXiv 2205.14135). Per query row and head, over tiles in ascending order:
//   s_j = scale·Σ_i q_i·k_{j,i} (i ascending), m' = max(m, max_j s_j), p_j = e^(s_j − m'),
//   l ← l·e^(m − m') + Σ_j p_j, acc ← acc·e^(m − m') + Σ_j p_j·v_j (j ascending); out = acc / l.
// A sink starts a row at m = sink, l = 1. Contracts: kernels/attention.h.

#include "kernels/attention.h"
#include "kernels/simd/codec_impl.h"

namespace ashlar {
namespace {

constexpr int64_t kTileVectors = kAttentionTile / kLanes;

ASHLAR_INLINE int64_t pad16(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

/// The scratch of one call, see attention_scratch_bytes.
struct AttentionScratch {
  float* keys_t;  ///< [pad16(key_dim), 64]: the tile's keys, transposed
  float* values;  ///< [64, pad16(value_dim)]
  float* rows;    ///< [16, pad16(key_dim)]: keys before transposition
  float* acc;     ///< [queries, pad16(value_dim)]
  float* max;     ///< [queries]
  float* sum;     ///< [queries]
  float* kept;    ///< [queries, kept_stride]: scaled scores, if the task collects
  int64_t kept_stride;
  int64_t key_pad;
  int64_t value_pad;
};

AttentionScratch split_scratch(const KvHeadView& kv, const AttentionTask& task,
                               std::byte* scratch) {
  AttentionScratch s;
  const int64_t queries = task.rows * task.group;
  s.key_pad = pad16(task.key_dim);
  s.value_pad = pad16(task.value_dim);
  const int64_t slots = kv.encoded + task.raw_visible + task.rows - 1;
  s.kept_stride = (slots + kAttentionTile - 1) / kAttentionTile * kAttentionTile;
  float* p = reinterpret_cast<float*>(scratch);
  s.keys_t = p;
  p += s.key_pad * kAttentionTile;
  s.values = p;
  p += s.value_pad * kAttentionTile;
  s.rows = p;
  p += s.key_pad * kLanes;
  s.acc = p;
  p += s.value_pad * queries;
  s.max = p;
  p += pad16(queries);
  s.sum = p;
  p += pad16(queries);
  s.kept = p;
  return s;
}

/// One side, keys or values, of a KvHeadView.
struct Side {
  CodecKind codec;
  int64_t offset, stride;
  const float* raw;
  int64_t raw_stride;
};
ASHLAR_INLINE Side key_side(const KvHeadView& kv) {
  return {kv.key_codec, kv.key_offset, kv.key_stride, kv.raw_keys, kv.raw_key_stride};
}
ASHLAR_INLINE Side value_side(const KvHeadView& kv) {
  return {kv.value_codec, kv.value_offset, kv.value_stride, kv.raw_values, kv.raw_value_stride};
}

/// Decodes slots [first, first + n) of one side into rows of pad16(dim) floats. Elements beyond
/// `dim` carry no meaning and reach no output.
void load_rows(const KvHeadView& kv, const Side& side, int64_t first, int64_t n, int64_t dim,
               float* out) {
  const int64_t out_stride = pad16(dim);
  const int64_t end = first + n;
  int64_t slot = first;
  while (slot < end && slot < kv.encoded) {
    const int64_t page = slot / kv.page_rows, in_page = slot % kv.page_rows;
    int64_t run = kv.page_rows - in_page;  // rows up to the end of page, cache and request
    run = run < kv.encoded - slot ? run : kv.encoded - slot;
    run = run < end - slot ? run : end - slot;
    const std::byte* row = kv.pages[page] + side.offset + in_page * side.stride;
    with_codec(side.codec, [&](auto tag) {
      for (int64_t j = 0; j < run; ++j, row += side.stride, out += out_stride) {
        decode_row<decltype(tag)::value, true>(row, dim, out);
      }
    });
    slot += run;
  }
  for (; slot < end; ++slot, out += out_stride) {
    const float* row = side.raw + (slot - kv.encoded) * side.raw_stride;
    decode_row<CodecKind::kF32, true>(reinterpret_cast<const std::byte*>(row), dim, out);
  }
}

/// Whether the values are the first elements of the keys (latent attention).
ASHLAR_INLINE bool same_rows(const Side& keys, const Side& values) {
  return keys.codec == values.codec && keys.offset == values.offset &&
         keys.stride == values.stride && keys.raw == values.raw &&
         keys.raw_stride == values.raw_stride;
}

/// Fills keys_t and values with slots [first, first + n). Columns of keys_t beyond n hold old or
/// zero keys; no row sees them.
void load_tile(const KvHeadView& kv, const AttentionTask& task, const AttentionScratch& s,
               int64_t first, int64_t n) {
  const Side keys = key_side(kv), values = value_side(kv);
  const bool shared = same_rows(keys, values) && task.value_dim <= task.key_dim;
  for (int64_t j = 0; j < n; j += kLanes) {
    const int64_t live = n - j < kLanes ? n - j : kLanes;
    load_rows(kv, keys, first + j, live, task.key_dim, s.rows);
    for (int64_t i = 0; shared && i < live; ++i) {
      __builtin_memcpy(s.values + (j + i) * s.value_pad, s.rows + i * s.key_pad,
                       static_cast<size_t>(s.value_pad) * sizeof(float));
    }
    for (int64_t i = live * s.key_pad; i < kLanes * s.key_pad; ++i) s.rows[i] = 0.0f;
    for (int64_t i = 0; i < s.key_pad; i += kLanes) {
      transpose16(s.rows + i, s.key_pad, s.keys_t + i * kAttentionTile + j, kAttentionTile);
    }
  }
  if (!shared) load_rows(kv, values, first, n, task.value_dim, s.values);
}

/// A few queries that see the same slots of a tile: they share every load of it. How many are
/// taken together changes no chain of operations and so no bit.
struct QueryBlock {
  const float* q[kQueryBlock];
  float* scores[kQueryBlock];  ///< 64 each
  int64_t first;               ///< index of the first query; the others follow
};

/// The slots [begin, end) of a tile that a row sees; end ≤ begin: none.
struct Span {
  int64_t begin;
  int64_t end;
};

/// Scaled scores of N queries against the tile; −infinity outside `live`.
template <int N>
ASHLAR_INLINE void tile_scores(const QueryBlock& b, const float* keys_t, int64_t dim, float scale,
                               Span live) {
  constexpr int C = kQueryColumns;
  for (int64_t column = 0; column < kAttentionTile; column += C * kLanes) {
    Vf a[N][C];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = vzero();
    }
    for (int64_t i = 0; i < dim; ++i) {
      const float* row = keys_t + i * kAttentionTile + column;
      Vf k[C];
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) k[c] = vload(row + c * kLanes);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const Vf q = vset(b.q[n][i]);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) a[n][c] = vfma(q, k[c], a[n][c]);
      }
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        vstore(b.scores[n] + column + c * kLanes, vmul(a[n][c], vset(scale)));
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int64_t j = 0; j < live.begin; ++j) b.scores[n][j] = -__builtin_inff();
    for (int64_t j = live.end; j < kAttentionTile; ++j) b.scores[n][j] = -__builtin_inff();
  }
}

/// The tile's probabilities before normalisation and the factor that rescales what came before;
/// updates max and sum.
ASHLAR_INLINE float tile_softmax(const AttentionScratch& s, int64_t query, const float* scores,
                                 float* p) {
  Vf v[kTileVectors];
  for (int64_t c = 0; c < kTileVectors; ++c) v[c] = vload(scores + c * kLanes);
  const float old_max = s.max[query];
  const float tile_max = vmax_all(vmax(vmax(v[0], v[1]), vmax(v[2], v[3])));
  const float new_max = tile_max > old_max ? tile_max : old_max;
  for (int64_t c = 0; c < kTileVectors; ++c) {
    v[c] = vexp(vsub(v[c], vset(new_max)));
    vstore(p + c * kLanes, v[c]);
  }
  float alpha[kLanes];
  vstore(alpha, vexp(vset(old_max - new_max)));
  s.max[query] = new_max;
  s.sum[query] = s.sum[query] * alpha[0] + vsum(vadd(vadd(v[0], v[1]), vadd(v[2], v[3])));
  return alpha[0];
}

/// acc_n ← acc_n·alpha_n + Σ_j p_n,j·v_j for N queries and C registers of the value.
template <int N, int C>
ASHLAR_INLINE void accumulate(const float (&p)[kQueryBlock][kAttentionTile],
                              const float (&alpha)[kQueryBlock], Span live, const float* values,
                              int64_t stride, float* acc) {
  Vf a[N][C];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      a[n][c] = vmul(vload(acc + n * stride + c * kLanes), vset(alpha[n]));
    }
  }
  for (int64_t j = live.begin; j < live.end; ++j) {
    Vf v[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) v[c] = vload(values + j * stride + c * kLanes);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vf w = vset(p[n][j]);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[n][c] = vfma(w, v[c], a[n][c]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) vstore(acc + n * stride + c * kLanes, a[n][c]);
  }
}

/// N queries against one tile, of which each sees the slots `live`.
template <int N>
void attend_tile(const AttentionTask& task, const AttentionScratch& s, const QueryBlock& block,
                 Span live) {
  constexpr int C = kQueryColumns;
  tile_scores<N>(block, s.keys_t, task.key_dim, task.scale, live);
  alignas(64) float p[kQueryBlock][kAttentionTile];
  float alpha[kQueryBlock];
  for (int n = 0; n < N; ++n) alpha[n] = tile_softmax(s, block.first + n, block.scores[n], p[n]);
  float* acc = s.acc + block.first * s.value_pad;
  int64_t i = 0;
  for (; i + C * kLanes <= s.value_pad; i += C * kLanes) {
    accumulate<N, C>(p, alpha, live, s.values + i, s.value_pad, acc + i);
  }
  for (; i < s.value_pad; i += kLanes) {
    accumulate<N, 1>(p, alpha, live, s.values + i, s.value_pad, acc + i);
  }
}

/// First slot that a row sees whose last visible slot is visible − 1.
ASHLAR_INLINE int64_t first_seen(const AttentionTask& task, int64_t visible) {
  return task.window > 0 && visible > task.window ? visible - task.window : 0;
}

/// Every query against the tile of slots from `first` on, in blocks that see the same of it.
void attend_queries(const AttentionTask& task, const AttentionScratch& s, int64_t first,
                    int64_t first_visible) {
  const int64_t queries = task.rows * task.group;
  alignas(64) float local[kQueryBlock][kAttentionTile];
  const auto live_of = [&](int64_t query) {
    const int64_t visible = first_visible + query / task.group;
    const int64_t seen = visible - first, begin = first_seen(task, visible) - first;
    return Span{begin > 0 ? begin : 0, seen < kAttentionTile ? seen : kAttentionTile};
  };
  for (int64_t query = 0; query < queries;) {
    const Span live = live_of(query);
    if (live.end <= live.begin) {
      query += task.group;  // the row ends before this tile or begins behind it
      continue;
    }
    const auto same = [&](Span other) {
      return other.begin == live.begin && other.end == live.end;
    };
    QueryBlock block;
    block.first = query;
    int n = 0;
    for (; n < kQueryBlock && query < queries && same(live_of(query)); ++n, ++query) {
      block.q[n] = task.q + query / task.group * task.q_stride + query % task.group * task.key_dim;
      block.scores[n] = task.scores != nullptr ? s.kept + query * s.kept_stride + first : local[n];
    }
    if (n == kQueryBlock) {
      attend_tile<kQueryBlock>(task, s, block, live);
      continue;
    }
    // The rest one by one.
    for (int i = 0; i < n; ++i) {
      QueryBlock one = block;
      one.q[0] = block.q[i];
      one.scores[0] = block.scores[i];
      one.first = block.first + i;
      attend_tile<1>(task, s, one, live);
    }
  }
}

/// scores[j] += e^(s_j − m) / l over the slots the query sees.
void collect(const AttentionTask& task, const AttentionScratch& s, int64_t query, int64_t visible) {
  const Vf max = vset(s.max[query]), sum = vset(s.sum[query]);
  // From the border of 16 slots before the first one: those before it have probability 0.
  const int64_t first = first_seen(task, visible) / kLanes * kLanes;
  const float* kept = s.kept + query * s.kept_stride + first;
  float* scores = task.scores + first;
  for_spans(visible - first, [&](int64_t i, int64_t n) {
    const Vf p = vdiv(vexp(vsub(vload(kept + i), max)), sum);
    vstore_span(scores + i, n, vadd(vload_span(scores + i, n), p));
  });
}

void attention_kernel(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch) {
  const AttentionScratch s = split_scratch(kv, task, scratch);
  const int64_t queries = task.rows * task.group;
  const int64_t first_visible = kv.encoded + task.raw_visible;
  const int64_t slots = first_visible + task.rows - 1;
  for (int64_t i = 0; i < queries; ++i) {
    s.max[i] = task.sinks != nullptr ? task.sinks[i % task.group] : -__builtin_inff();
    s.sum[i] = task.sinks != nullptr ? 1.0f : 0.0f;
  }
  for (int64_t i = 0; i < queries * s.value_pad; ++i) s.acc[i] = 0.0f;
  // The first row sees the oldest slots.
  const int64_t oldest = first_seen(task, first_visible) / kAttentionTile * kAttentionTile;
  if (slots - oldest < kAttentionTile) {
    for (int64_t i = 0; i < s.key_pad * kAttentionTile; ++i) s.keys_t[i] = 0.0f;
  }
  for (int64_t first = oldest; first < slots; first += kAttentionTile) {
    const int64_t n = slots - first < kAttentionTile ? slots - first : kAttentionTile;
    load_tile(kv, task, s, first, n);
    attend_queries(task, s, first, first_visible);
  }
  for (int64_t r = 0; r < task.rows; ++r) {
    for (int64_t h = 0; h < task.group; ++h) {
      const int64_t query = r * task.group + h;
      const Vf sum = vset(s.sum[query]);
      float* out = task.out + r * task.out_stride + h * task.value_dim;
      for_spans(task.value_dim, [&](int64_t i, int64_t n) {
        vstore_span(out + i, n, vdiv(vload(s.acc + query * s.value_pad + i), sum));
      });
      if (task.scores != nullptr) collect(task, s, query, first_visible + r);
    }
  }
}

}  // namespace
}  // namespace ashlar
