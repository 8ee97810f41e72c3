#pragma once

#include <cstdint>

#include "core/base/node.h"

namespace ashlar {

/// The section `checkpoint`: when checkpoints are written and which stay.
struct CheckpointConfig {
  int64_t every = 0;         ///< steps; 0: only after the last one
  int64_t keep = 2;          ///< newest that stay
  int64_t keep_every = 0;    ///< multiples of this many steps stay for good; 0: none
  bool asynchronous = true;  ///< training waits for the copy of the values only
};

/// Reads the section. Throws Error(kRequest) "file:line: key: reason", also when `keep_every` names
/// steps at which none is written.
CheckpointConfig read_checkpoint_config(const Node& node);
Node checkpoint_config_node(const CheckpointConfig& config);

}  // namespace ashlar
