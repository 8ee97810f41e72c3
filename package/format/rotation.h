#pragma once

#include <cstdint>
#include <vector>

#include "core/base/node.h"
#include "models/spec/spec.h"

namespace ashlar {

/// Which of QuaRot's rotations (arXiv 2404.00456 §4) the weights of one stack carry. `residual` and
/// `value` are fused and cost nothing at run time; the engine must apply the online ones.
struct StackRotation {
  bool residual = false;  ///< R1: the residual stream is x·Q, Q = H·diag(±1)
  bool value = false;     ///< R2: cached values are v·H_dh per head, cached latents c·H_dc
  bool heads = false;     ///< online: attention output ← (H_nh ⊗ I)·, before o_proj
  bool keys = false;      ///< R3, online: q and k ← ·H_dh per head, after RoPE
  bool down = false;      ///< R4, online: gated activation ← ·H_dff, before down_proj
  bool slots = false;     ///< global stack, online: H_{L_B} across the L_B slots after the embedder
  uint64_t seed = 0;      ///< signs of Q; information only, they are fused
  bool operator==(const StackRotation&) const = default;
};

/// Per stack of the model, in order. Empty: nothing is rotated.
struct RotationManifest {
  std::vector<StackRotation> stacks;
  /// True if the engine has to do something that plain readers of the weights would not.
  bool any_online() const;
  bool operator==(const RotationManifest&) const = default;
};

Node to_node(const RotationManifest& manifest);
/// Throws Error for an unknown rotation or a wrong number of stacks.
RotationManifest rotation_from_node(const Node& node, const ModelSpec& spec);

}  // namespace ashlar
