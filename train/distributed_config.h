#pragma once

#include <cstdint>

#include "core/base/node.h"
#include "train/dist/groups.h"

namespace ashlar {

/// How the ranks of a run share the work.
struct DistributedConfig {
  /// What ranks share instead of holding it whole (ZeRO, arXiv 1910.02054 §5): 0 nothing, 1
  /// optimizer state, 2 gradients as well, 3 parameters as well.
  int64_t zero = 0;
  /// Ranks that share one copy; further ranks hold copies (hybrid sharding). 0: all ranks.
  int64_t shard_ranks = 0;
  Reduction reduce = Reduction::kFp32;
  double timeout_seconds = 300;  ///< of a collective
};

DistributedConfig read_distributed(const Node& node);
Node to_node(const DistributedConfig& config);

/// Throws Error(kRequest) when `world` ranks cannot be divided so, or `micro_batches` of a step
/// leave ranks without work.
void check_distributed(const DistributedConfig& config, int64_t world, int64_t micro_batches);

}  // namespace ashlar
