#pragma once

// Included after one ISA header. The state of an online softmax, its queries, and what segments add
// to both.
//
// Rows of a segment whose parameters are those of channels (kernels/kv_zip.h), k = min_i +
// step_i·code, v = (min_j + step_j·code)·c_i: queries are multiplied once per run,
//   q·k = Σ_i (q_i·step_i)·code_i + Σ_i q_i·min_i,
// and Σ_j p_j·v_j of a segment is c_i·(Σ_j p_j·step_j·code + Σ_j p_j·min_j): what the tiles have
// added up since c last changed is multiplied with it and goes to a total of the split.

#include "kernels/attention_plan.h"
#include "kernels/simd/attention_scores_impl.h"

namespace ashlar {
namespace {

ASHLAR_INLINE int64_t pad64(int64_t n) { return (n + 63) / 64 * 64; }
ASHLAR_INLINE float* take(float*& p, int64_t floats) {
  float* begin = p;
  p += floats;
  return begin;
}

/// q: those that are packed already and only get other roundings; null: none.
PackedQueries query_scratch(const AttentionTask& task, float*& p, float* packed = nullptr) {
  const int64_t queries = task.rows * task.group;
  PackedQueries q;
  q.stride = queries;
  q.has_q = false;
  q.q = packed != nullptr ? packed : take(p, pad16(task.key_dim * queries));
  const int64_t halves = pad16(pad16(task.key_dim) / 2 * queries);
  q.rounded = reinterpret_cast<int16_t*>(take(p, halves));
  q.words = reinterpret_cast<int32_t*>(take(p, halves));
  q.codec = CodecKind::kF32;
  q.arranged = TileKind::kF32;
  q.sum = take(p, pad16(queries));
  q.unit = take(p, pad16(queries));
  q.rest = take(p, pad16(queries));
  return q;
}

/// Q of one query for keys of packed.codec, and what belongs to it.
void round_query(const float* q, int64_t dim, float scale, PackedQueries& packed, int64_t query) {
  const QueryRounding to = query_rounding(packed.codec, dim);
  const Rounded r = round_numbers(q, dim, to.levels, packed.rounded + query * pad16(dim));
  packed.arranged = TileKind::kF32;
  packed.unit[query] = scale * r.unit;
  packed.rest[query] = scale * to.middle * r.rest;
}

ASHLAR_INLINE const float* query_of(const AttentionTask& task, int64_t query) {
  return task.q + query / task.group * task.q_stride + query % task.group * task.key_dim;
}

/// Packs the queries as keys that are numbers are multiplied, once.
void pack_numbers(const AttentionTask& task, PackedQueries& packed) {
  if (packed.has_q) return;
  packed.has_q = true;
  for (int64_t query = 0; query < packed.stride; ++query) {
    const float* q = query_of(task, query);
    for (int64_t i = 0; i < task.key_dim; ++i) packed.q[i * packed.stride + query] = q[i];
  }
}

/// Rounds the queries for keys of a codec, unless they are.
void round_queries(const AttentionTask& task, PackedQueries& packed, CodecKind codec) {
  if (packed.codec == codec) return;
  packed.codec = codec;
  for (int64_t query = 0; query < packed.stride; ++query) {
    const float* q = query_of(task, query);
    packed.sum[query] = task.scale * sum_elements(q, task.key_dim);
    round_query(q, task.key_dim, task.scale, packed, query);
  }
}

ASHLAR_INLINE Vf vload_half_span(const std::byte* p, int64_t n) {
  if (n == kLanes) return vload_half(p);
  alignas(64) std::byte tail[2 * kLanes] = {};
  __builtin_memcpy(tail, p, static_cast<size_t>(2 * n));
  return vload_half(tail);
}

/// Queries as the keys of a run with channels are multiplied: Q and u of q_i·step_i, Σ q_i·min_i.
/// row: scratch for [pad16(key_dim)].
void scale_queries(const AttentionTask& task, const KvRun& run, PackedQueries& packed, float* row) {
  const std::byte *min = run.key_channels, *step = min + 2 * task.key_dim;
  packed.codec = run.key_codec;
  for (int64_t query = 0; query < packed.stride; ++query) {
    const float* q = query_of(task, query);
    Vf sum = vzero();
    for_spans(task.key_dim, [&](int64_t i, int64_t n) {
      const Vf x = vload_span(q + i, n);
      sum = vfma(x, vload_half_span(min + 2 * i, n), sum);
      vstore_span(row + i, n, vmul(x, vload_half_span(step + 2 * i, n)));
    });
    packed.sum[query] = task.scale * vsum(sum);
    round_query(row, task.key_dim, task.scale, packed, query);
  }
}

TileScratch tile_scratch(const AttentionTask& task, float*& p) {
  const int64_t key_pad = pad16(task.key_dim), value_pad = pad16(task.value_dim);
  TileScratch s;
  s.keys_t = take(p, key_pad * kAttentionPair);
  s.values = take(p, value_pad * kAttentionPair);
  s.rows = take(p, key_pad * kLanes);
  return s;
}

SoftmaxState softmax_state(const AttentionTask& task, float*& p) {
  const int64_t queries = task.rows * task.group;
  SoftmaxState s;
  s.stride = pad64(task.value_dim);
  s.max = take(p, pad16(queries));
  s.sum = take(p, pad16(queries));
  s.base = take(p, pad16(queries));
  s.acc = take(p, queries * s.stride);
  return s;
}

/// What segments behind have added up to: total_i and the largest score it is relative to.
struct SegmentTotal {
  float* max;
  float* acc;  ///< [queries, stride] as those of the state
};
SegmentTotal segment_total(const AttentionTask& task, float*& p) {
  const int64_t queries = task.rows * task.group;
  SegmentTotal t;
  t.max = take(p, pad16(queries));
  t.acc = take(p, queries * pad64(task.value_dim));
  return t;
}

/// The factors of the values of a tile's run; null: none.
ASHLAR_INLINE const std::byte* factors_of(const KvHeadView& kv, const TilePlace& at) {
  return at.run < 0 ? nullptr : kv.run(at.run).value_channels;
}

/// total ← total·e^(m_total − m) + c·(acc + base), acc ← 0. Queries that saw nothing yet stay.
void fold_segment(const AttentionTask& task, const SoftmaxState& s, const SegmentTotal& total,
                  const std::byte* factors) {
  for (int64_t query = 0; query < task.rows * task.group; ++query) {
    if (s.max[query] == -__builtin_inff()) continue;
    float drop[kLanes];
    vstore(drop, vexp(vset(total.max[query] - s.max[query])));
    const Vf base = vset(s.base[query]), alpha = vset(drop[0]);
    float *acc = s.acc + query * s.stride, *to = total.acc + query * s.stride;
    for_spans(task.value_dim, [&](int64_t i, int64_t n) {
      const Vf sum = vadd(vload(acc + i), base), before = vmul(vload(to + i), alpha);
      const Vf c = factors == nullptr ? vset(1.0f) : vload_half_span(factors + 2 * i, n);
      vstore(to + i, vfma(sum, c, before));
      vstore(acc + i, vzero());
    });
    total.max[query] = s.max[query];
    s.base[query] = 0.0f;
  }
}

/// What a split works with beside its result.
struct SplitScratch {
  TileScratch tiles;
  PackedQueries packed, scaled;
  SegmentTotal total;
};
SplitScratch split_scratch(const AttentionTask& task, float*& p) {
  SplitScratch s;
  s.tiles = tile_scratch(task, p);
  s.packed = query_scratch(task, p);
  s.scaled = query_scratch(task, p, s.packed.q);
  s.total = segment_total(task, p);
  return s;
}

/// A split's tiles by segment: queries and accumulators carry the parameters of channels.
class Segments {
 public:
  Segments(const KvHeadView& kv, const AttentionTask& task, const SoftmaxState& s,
           SplitScratch& scratch)
      : kv_(kv), task_(task), s_(s), scratch_(scratch), any_(has_channels(kv)) {
    if (!any_) return;
    const int64_t queries = task.rows * task.group;
    for (int64_t i = 0; i < queries; ++i) scratch.total.max[i] = -__builtin_inff();
    for (int64_t i = 0; i < queries * s.stride; ++i) scratch.total.acc[i] = 0.0f;
  }
  /// The queries for a tile, which may begin another run.
  PackedQueries& enter(const TilePlace& at) {
    if (!any_) return rounded(at);
    const std::byte* factors = factors_of(kv_, at);
    if (begun_ && factors != factors_) fold_segment(task_, s_, scratch_.total, factors_);
    begun_ = true;
    factors_ = factors;
    if (factors == nullptr) return rounded(at);
    if (at.run != run_) scale_queries(task_, kv_.run(at.run), scratch_.scaled, scratch_.tiles.rows);
    run_ = at.run;
    return scratch_.scaled;
  }
  /// The split ends: its sums are complete.
  void finish() {
    const int64_t queries = task_.rows * task_.group;
    if (any_) {
      fold_segment(task_, s_, scratch_.total, factors_);
      for (int64_t i = 0; i < queries * s_.stride; ++i) s_.acc[i] = scratch_.total.acc[i];
      return;
    }
    for (int64_t i = 0; i < queries; ++i) {
      const Vf base = vset(s_.base[i]);
      float* acc = s_.acc + i * s_.stride;
      for (int64_t j = 0; j < s_.stride; j += kLanes) vstore(acc + j, vadd(vload(acc + j), base));
    }
  }

 private:
  /// The queries as they are, for the keys of a tile.
  PackedQueries& rounded(const TilePlace& at) {
    if (at.run < 0) return scratch_.packed;
    const CodecKind codec = kv_.run(at.run).key_codec;
    if (is_affine(codec)) round_queries(task_, scratch_.packed, codec);
    return scratch_.packed;
  }

  const KvHeadView& kv_;
  const AttentionTask& task_;
  const SoftmaxState& s_;
  SplitScratch& scratch_;
  const bool any_;
  bool begun_ = false;
  int64_t run_ = -1;
  const std::byte* factors_ = nullptr;
};

}  // namespace
}  // namespace ashlar
