#pragma once

#include <cstdint>
#include <vector>

namespace ashlar {

/// What a training or validation step consumes. All arrays are [B, T] row-major.
struct Batch {
  int64_t rows = 0;     ///< B
  int64_t context = 0;  ///< T
  std::vector<int32_t> tokens;
  std::vector<int32_t> targets;    ///< the token after each of `tokens`
  std::vector<float> loss_weight;  ///< of each target; 0 for padding
  /// Number of the document within the row, from 0. An EOS as input begins the document behind it,
  /// which it is the start marker of.
  std::vector<int32_t> segment_ids;
  std::vector<int32_t> positions;  ///< 0 .. T-1
  int64_t cursor = 0;              ///< index of the first row in the order of samples
};

}  // namespace ashlar
