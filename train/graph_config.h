#pragma once

#include <string>

#include "core/base/node.h"
#include "train/config.h"

namespace ashlar {

/// Why passes of `config` cannot be recorded and replayed (train/pass_graph.h); empty: they can.
/// Does not ask which device.
std::string unrecordable(const TrainConfig& config);

/// Throws Error(kRequest) at `key` when `config` asks for train.cuda_graphs and cannot have them as
/// far as the file says; resolve_machine_choices() sees whether there is a GPU.
void check_cuda_graphs(const TrainConfig& config, const Node& key);

}  // namespace ashlar
