#pragma once

#include <cstdint>

#include "kernels/attention.h"

// Sizes that the attention kernels and attention.cpp must agree on.

namespace ashlar {

/// Query rows that share each load of a tile; more are taken in chunks, whose accumulators stay in
/// the second-level cache.
int64_t attention_chunk_rows(int64_t group);

/// Rows in front of a run with channels that its first tile begins with.
inline constexpr int64_t kRunUnit = 16;
// Always inlined: code of one instruction set must not serve another.
__attribute__((always_inline)) inline int64_t run_lead(const KvRun& run) {
  return run.key_channels == nullptr ? 0 : run.first % kRunUnit;
}
__attribute__((always_inline)) inline int64_t run_tiles(const KvRun& run) {
  if (run.rows == 0) return 0;
  return (run_lead(run) + run.rows + kAttentionTile - 1) / kAttentionTile;
}

/// Whether a run's tiles form pairs.
__attribute__((always_inline)) inline bool run_pairs(const KvRun& run) {
  return attention_pairs(run.key_codec, run.value_codec) && !run.value_in_key;
}

}  // namespace ashlar
