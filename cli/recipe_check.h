#pragma once

#include "core/base/node.h"
#include "train/config.h"

namespace ashlar::cli {

/// Reads the configuration and, if it names a recipe under `quantize`, checks that the model can be
/// rotated and rounded that way. Throws Error(kRequest) at the key with the reason: a size without
/// a Hadamard matrix, a rotation that the architecture cannot have.
TrainConfig checked_config(const Node& root);

}  // namespace ashlar::cli
