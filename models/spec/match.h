#pragma once

#include <functional>

#include "models/spec/plan.h"

// Fair comparisons: how long, how deep or how wide one model must be to cost as much as another.

namespace ashlar {

/// Steps of `run` (its batch and context) on `spec` whose FLOPs come nearest to `flops`; at least
/// one.
int64_t steps_for_flops(const ModelSpec& spec, const RunShape& run, double flops);

/// What is to be matched, such as parameter_count or FLOPs per token; must grow with the model.
using Measure = std::function<double(const ModelSpec&)>;

/// A model section scaled to come nearest to a target.
struct ScaledModel {
  Node section;  ///< of the configuration, the scaled values replaced
  ModelSpec spec;
  /// The replaced values as `train --set` takes them: "model.decoder.layers=14", …
  std::vector<std::string> changes;
  double measure = 0;
};
/// Scales the number of layers. A Block Transformer keeps the ratio of its two decoders; its
/// encoder stays. Throws Error(kRequest) where layers are named one by one (overrides, an explicit
/// kv_sharing list).
ScaledModel scale_layers(const Node& section, const Measure& measure, double target);
/// Scales the width in whole heads: d_model, heads and d_ff (to a multiple of 8) by one factor for
/// all stacks but the encoder, head_dim stays; kv_heads follows where it equals heads and stays
/// otherwise. Throws Error(kRequest) for overrides and where d_model is no multiple of heads.
ScaledModel scale_width(const Node& section, const Measure& measure, double target);

}  // namespace ashlar
