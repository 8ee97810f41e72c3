#pragma once

#include "attention/linear.h"
#include "attention/ops.h"
#include "models/layer_stage.h"

namespace ashlar {

/// What a layer projects its queries, keys and values from.
struct ProjectionInput {
  const LayerPlan& plan;
  const StageWeights& w;
  const RopeTable& rope;
  const at::Tensor& h;  ///< normalised stream [B, T, D]
  at::Tensor& x;        ///< the stream; replaced by its continuation (attention/ops.h: rms_norm)
  KvMap& kv;            ///< an owner leaves its K/V here under plan.group
};

/// Rotated queries [B, T, H, query_dim] of one layer; an owner's K/V go into `kv`. A new kind of
/// attention is one source with such a function and one line in projection_of.
using Projection = at::Tensor (*)(const ProjectionInput&);
Projection projection_of(AttentionKind kind);

at::Tensor project_grouped(const ProjectionInput& in);
at::Tensor project_latent(const ProjectionInput& in);

/// x [B, T, heads·E] as [B, T, heads, E].
at::Tensor split_heads(const at::Tensor& x, int64_t heads);
/// What K/V are projected from: the query's input, or the stream through a norm of its own.
at::Tensor kv_input(const ProjectionInput& in);

}  // namespace ashlar
