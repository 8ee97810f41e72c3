#pragma once

#include "models/stage_weights.h"
#include "models/stages.h"

namespace ashlar {

/// Everything a layer's stage knows besides its weights.
struct LayerPlan {
  LayerSpec spec;
  StackRole role = StackRole::kDecoder;
  bool owner = true;
  bool last_reader = true;  ///< drops the group's K/V behind it
  bool cross = false;       ///< attends to state.context
  int64_t group = -1;       ///< KvGroup it reads
  std::vector<ParameterRole> roles;
};

/// One layer: attention and FFN around the residual stream, in the order its ResidualKind says. An
/// owner leaves its K/V in state.kv, a reader takes them from there and projects only Q.
StageState run_layer(const LayerPlan& plan, std::span<const at::Tensor> parameters,
                     const StageInput& input, StageState state);

}  // namespace ashlar
