#include <ATen/ATen.h>

#include "models/projection.h"

// Multi-head latent attention (arXiv 2405.04434 eqs. 9–19) in the expanded form that training
// wants: every head gets keys and values of its own, made from the latent. The engine absorbs the
// up-projections instead and caches the latent.

namespace ashlar {
namespace {

using at::Tensor;
using Role = ParameterRole;

void leave_kv(const ProjectionInput& in) {
  const AttentionSpec& a = in.plan.spec.attention;
  const Tensor down = linear_map(kv_input(in), in.w.as(Role::kLatent, in.h));
  const Tensor latent =
      rms_norm(down.narrow(2, 0, a.latent_dim), in.w[Role::kLatentNorm], in.plan.spec.norm.eps)
          .first;
  const auto up = linear_many(latent, in.w.as(Role::kKeyUp, in.h), in.w.as(Role::kValueUp, in.h));
  const Tensor shared = down.narrow(2, a.latent_dim, a.rope.dim).contiguous();
  const Tensor turned = rotate(split_heads(shared, 1), in.rope).expand({-1, -1, a.heads, -1});
  in.kv[in.plan.group] = {at::cat({split_heads(up[0], a.heads), turned}, 3),
                          split_heads(up[1], a.heads)};
}

}  // namespace

Tensor project_latent(const ProjectionInput& in) {
  const AttentionSpec& a = in.plan.spec.attention;
  if (in.plan.owner) leave_kv(in);
  Tensor source = in.h;
  if (in.w.has(Role::kQueryDown)) {
    const Tensor down = linear_map(in.h, in.w.as(Role::kQueryDown, in.h));
    source = rms_norm(down, in.w[Role::kQueryDownNorm], in.plan.spec.norm.eps).first;
  }
  const Tensor q = linear_map(source, in.w.as(Role::kQuery, in.h));
  return rotate(split_heads(q, a.heads), in.rope, a.rope_offset());
}

}  // namespace ashlar
