#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "data/shards/batch.h"

namespace ashlar {

/// Where training samples come from: a pure function of the sample's number, so that the order of
/// the data does not depend on batches, ranks or resume points.
class SampleSource {
 public:
  virtual ~SampleSource() = default;

  virtual int64_t context() const = 0;  ///< T, targets per sample
  virtual int64_t windows() const = 0;  ///< samples of one epoch
  /// Rows in the order of `samples`, any sample numbers ≥ 0, such as those of one rank; cursor is
  /// the first. Safe for any number of threads.
  virtual Batch batch(std::span<const int64_t> samples) const = 0;

  /// Says which samples will be asked for next, in exactly this combination.
  virtual void prefetch(std::span<const int64_t> /*samples*/) const {}

  /// Samples [first, first + rows).
  Batch batch(int64_t first, int64_t rows) const {
    std::vector<int64_t> samples(static_cast<size_t>(rows));
    std::iota(samples.begin(), samples.end(), first);
    return batch(samples);
  }
};

}  // namespace ashlar
