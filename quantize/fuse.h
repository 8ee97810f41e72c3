#pragma once

#include <map>
#include <string>
#include <vector>

#include "package/format/model_data.h"
#include "quantize/rotation_plan.h"

namespace ashlar {

/// Weights in fp64, keyed by parameter name.
using DoubleWeights = std::map<std::string, std::vector<double>>;

/// Applies `plan` to fp64 weights in place: folds gains, turns both axes, sets folded norms to 1,
/// unties the head if the plan says so. `spec` is the model before; the one after is returned.
ModelSpec fuse_rotation(const ModelSpec& spec, const RotationPlan& plan, DoubleWeights& weights);

/// The tensor `name` ([rows, columns] or a vector) after its change; `gain` is the norm's gain or
/// empty.
std::vector<double> fuse_tensor(std::vector<double> values, int64_t rows, int64_t columns,
                                const TensorChange& change, const std::vector<double>& gain);

}  // namespace ashlar
