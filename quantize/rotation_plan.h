#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "kernels/hadamard.h"
#include "models/spec/spec.h"
#include "package/format/rotation.h"

namespace ashlar {

/// Which of the five rotations to apply (docs/architecture.md, QuaRot §4).
struct RotationRequest {
  bool residual = false, value = false, heads = false, keys = false, down = false;
  uint64_t seed = 1;
  bool any() const { return residual || value || heads || keys || down; }
};

/// One orthogonal factor of a basis change x → x·M. The vector begins with `repeat` pieces of
/// plan.n·inner values, and what lies behind them stays; in each piece, the axis of length plan.n
/// is transformed, then multiplied by `signs`.
struct BasisFactor {
  HadamardPlan plan;
  int64_t inner = 1;
  int64_t repeat = 1;
  std::vector<int8_t> signs;  ///< length plan.n·inner or empty
};
using Basis = std::vector<BasisFactor>;

/// What happens to one stored tensor, in fp64: rows (the input axis, or table entries) are
/// multiplied by the gain and then by `input`; columns (the output axis) by `output`.
struct TensorChange {
  std::string fold_gain;  ///< norm whose gain is folded into the input axis; that norm becomes 1
  Basis input;
  Basis output;
};

struct RotationPlan {
  RotationManifest manifest;  ///< what the engine must do online
  std::map<std::string, TensorChange> changes;
  std::vector<std::string> unit_norms;  ///< gains that become 1
  bool untie_head = false;
};

/// Plans rotations as one pass over residual streams (writers, readers), KvGroups (owner, readers)
/// and block slots. Changes may name biases that the model lacks. Throws Error(kRequest) naming the
/// size that has no Hadamard matrix, or what else cannot turn, and the rotation to leave out.
RotationPlan plan_rotation(const ModelSpec& spec, const RotationRequest& request);

/// x ← x·M for one vector.
void apply_basis(const Basis& basis, double* x);

}  // namespace ashlar
