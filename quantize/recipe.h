#pragma once

#include <string>

#include "core/base/node.h"
#include "package/format/model_data.h"
#include "quantize/rotation_plan.h"

namespace ashlar {

/// How codes are chosen for a group of weights.
enum class ClipKind {
  kNone,   ///< scale = max|x| / (2^(b−1)−1)
  kSearch  ///< the scale with the least squared error on a grid of shrunk ranges
};

struct WeightRecipe {
  int bits = 16;      ///< 4, 8 or 16 (dense fp16)
  int64_t group = 0;  ///< 0: one group per output row
  ClipKind clip = ClipKind::kSearch;
};

/// What `ashlar quantize` does. YAML keys:
///   rotation: {kinds: [residual, value, heads, keys, down] or all or none, seed: 1}
///   weights: {bits: 4, group: 32, clip: search}    every linear map but the head
///   head: {bits: 8, group: 32, clip: search}       default: like weights, at least 8 bits
///   embedding: fp16 | fp32                          tables
///   kv: {key: q4, value: q4}                        the package's default KV codec
struct Recipe {
  RotationRequest rotation;
  WeightRecipe weights;
  WeightRecipe head;
  DType embedding = DType::kF16;
  KvCodecNames kv;
};

/// Throws Error(kRequest) with file:line and key.
Recipe recipe_from_node(const Node& node);
Node to_node(const Recipe& recipe);

}  // namespace ashlar
