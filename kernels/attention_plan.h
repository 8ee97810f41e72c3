#pragma once

#include <cstdint>

// Sizes that the attention kernels and attention.cpp must agree on.

namespace ashlar {

/// Query rows that share each load of a tile; more are taken in chunks, whose accumulators stay in
/// the second-level cache.
int64_t attention_chunk_rows(int64_t group);

}  // namespace ashlar
