#include "models/projection.h"

#include "core/base/error.h"

namespace ashlar {

using at::Tensor;
using Role = ParameterRole;

Projection projection_of(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::kGrouped:
      return project_grouped;
    case AttentionKind::kLatent:
      return project_latent;
  }
  fail(ErrorCode::kInternal, "attention kind {} has no projection", static_cast<int>(kind));
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, -1});
}

Tensor kv_input(const ProjectionInput& in) {
  if (!in.w.has(Role::kKvNorm)) return in.h;
  auto [own, skip] = apply_norm(in.w, in.x, in.plan.spec.norm, Role::kKvNorm, Role::kKvNormBias);
  in.x = skip;
  return own;
}

}  // namespace ashlar
