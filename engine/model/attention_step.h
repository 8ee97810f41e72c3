#pragma once

#include "engine/model/layer_step.h"

// What the kinds of attention share; private to the stack runner.

namespace ashlar {

/// A kind of attention: from the layer's input (and, for K/V with a norm of their own, the stream
/// `source`) to all heads' outputs side by side [R, H, value_dim], in the workspace. An owner
/// appends its rows to the items' stores first. One per source, registered in attention_of.
using AttentionOf = float* (*)(const LayerStep& step, const float* source_RD,
                               const float* input_RD);
AttentionOf attention_of(AttentionKind kind);

float* grouped_attention(const LayerStep& step, const float* source_RD, const float* input_RD);
float* latent_attention(const LayerStep& step, const float* source_RD, const float* input_RD);

/// The order of a vector's changes: norm of each head, RoPE, online rotation of R3.
struct HeadChange {
  int64_t heads = 0;
  int64_t width = 0;            ///< floats of a head
  int64_t rope_offset = 0;      ///< first turned dimension of a head
  const float* norm = nullptr;  ///< gain [width] or null
};

void change_heads(const LayerStep& step, float* x, const HeadChange& change);

/// One attention over a cached group for all rows of a step.
struct Attend {
  const KvGroup& group;
  int64_t heads = 0;             ///< query heads
  const float* query = nullptr;  ///< [R, heads, key_dim]
  float* out = nullptr;          ///< [R, heads, value_dim]
  float scale = 0;
  const float* sinks = nullptr;  ///< [heads] or null
  bool full = false;             ///< every row sees every cached row
};

void attend(const LayerStep& step, const Attend& call);

/// 1/√dim.
float attention_scale(int64_t dim);

/// Appends the step's rows to the group; `values` null where they lie in the keys.
void append_rows(const LayerStep& step, const float* keys, const float* values);

/// What an owner's K/V projections read.
const float* kv_input(const LayerStep& step, const float* source_RD, const float* input_RD);

}  // namespace ashlar
