#pragma once

#include <span>

#include "package/format/tensor.h"
#include "quantize/recipe.h"

namespace ashlar {

/// Round-to-nearest of a matrix [out, in] to symmetric 4- or 8-bit codes with one fp16 scale per
/// group of `recipe.group` inputs (0: the whole row). Codes are chosen for the scale as stored.
/// Levels −2^(b−1) … 2^(b−1)−1; with ClipKind::kSearch the scale minimises the squared error over a
/// grid of shrunk ranges of either sign (QuaRot searches 1 − i/100 the same way). A zero group gets
/// scale 0. Throws Error(kData) naming the tensor when a weight is not finite.
WeightTensor quantize_rtn(const std::string& name, std::span<const double> values, int64_t out,
                          int64_t in, const WeightRecipe& recipe);

}  // namespace ashlar
