#pragma once

#include <memory>

#include "eval/scorer.h"
#include "package/format/model_data.h"

namespace ashlar::cli {

/// The training side behind the Scorer interface, in fp32. Throws Error(kRequest) for a model with
/// online rotations, which only the engine performs.
std::unique_ptr<Scorer> make_train_scorer(const ModelData& model, int threads);

}  // namespace ashlar::cli
