#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/plan.h"

namespace ashlar {

/// A part of a model that a training step treats as one: what is gathered, reduced and recomputed
/// together. Elements are counted with the padding that sharding needs.
struct TrainingPiece {
  std::string name;        ///< of the stage: "embed", "model.layers.3", "head"
  double linear = 0;       ///< elements of linear maps
  double rest = 0;         ///< of everything else
  double activations = 0;  ///< bytes that the backward pass reads, for one micro-batch
  double inputs = 0;       ///< bytes of what a recomputed piece keeps instead
  bool recompute = false;
  double flops_per_token = 0;  ///< forward
  double elements() const { return linear + rest; }
  double kept() const { return recompute ? inputs : activations; }
};

/// In the order of the forward pass, head (and loss) last. A stage's few gains and biases outside
/// layers count with the piece before. `shards` ranks share one copy.
std::vector<TrainingPiece> training_pieces(const ModelSpec& spec, const RunShape& run,
                                           int64_t shards);

/// Bytes per position and layer as stated at TrainingMemory, in elements.
double layer_elements(const ModelSpec& spec, const StackSpec& stack, int64_t index);
/// Positions of a stack per text token.
double positions_per_token(const ModelSpec& spec, const StackSpec& stack);

}  // namespace ashlar
