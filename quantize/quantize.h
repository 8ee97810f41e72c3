#pragma once

#include "package/format/model_data.h"
#include "quantize/recipe.h"

namespace ashlar {

/// Rotates (fp64, norm gains folded) and quantizes a model by `recipe`; the result is a new model
/// with its rotation manifest, recipe and KV codecs. Throws Error(kRequest) for a model that is
/// quantized or rotated already, or a size that a rotation cannot turn.
ModelData quantize_model(const ModelData& model, const Recipe& recipe);

}  // namespace ashlar
