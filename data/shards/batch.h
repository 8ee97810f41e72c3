#pragma once

#include <cstdint>
#include <span>
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

  Batch() = default;
  /// Room for `samples` rows of `length`, weights 0, positions filled in.
  Batch(std::span<const int64_t> samples, int64_t length)
      : rows(static_cast<int64_t>(samples.size())),
        context(length),
        tokens(samples.size() * static_cast<size_t>(length)),
        targets(tokens.size()),
        loss_weight(tokens.size()),
        segment_ids(tokens.size()),
        positions(tokens.size()),
        cursor(samples.empty() ? 0 : samples.front()) {
    for (size_t i = 0; i < positions.size(); ++i) {
      positions[i] = static_cast<int32_t>(i % static_cast<size_t>(length));
    }
  }
};

}  // namespace ashlar
