#pragma once

#include "models/spec/spec.h"
#include "quantize/rotation_plan.h"

namespace ashlar::test {

/// Every rotation that `spec` can carry: no turned stream through LayerNorm, no turned keys of
/// latent attention.
inline RotationRequest possible_rotations(const ModelSpec& spec, uint64_t seed) {
  RotationRequest request{true, true, true, true, true, seed};
  for (const StackSpec& stack : spec.stacks) {
    if (stack.role == StackRole::kEncoder) continue;
    for (const LayerSpec& layer : stack.layers) {
      if (layer.norm.kind == NormKind::kLayerNorm) request.residual = false;
      if (layer.attention.latent()) request.keys = false;
    }
  }
  return request;
}

}  // namespace ashlar::test
