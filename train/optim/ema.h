#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "train/optim/config.h"
#include "train/optim/optimizer.h"

namespace ashlar {

/// Exponential moving average of the weights this rank holds, in fp32: average ← d·average +
/// (1 − d)·weight after every `every` steps. It begins as the weights themselves. Elementwise: the
/// bits do not depend on how storage is cut into slices.
class WeightAverage {
 public:
  /// `units` as in every later call; their values are the first average.
  WeightAverage(const EmaConfig& config, std::span<const UnitSlice> units);

  /// Starts over from the weights as they are.
  void reset(std::span<const UnitSlice> units);
  /// After optimizer step `step` (from 1); does nothing unless `every` divides it.
  void update(std::span<const UnitSlice> units, int64_t step);
  /// Exchanges weights and average, for a validation or an export; again, to go on.
  void swap(std::span<const UnitSlice> units);

  /// What a checkpoint holds, one "ema" for each piece of a parameter; tensors may be written to.
  const std::vector<OptimizerState>& state() const { return state_; }

 private:
  EmaConfig config_;
  std::vector<at::Tensor> averages_;   // of each unit [range.size()]
  std::vector<OptimizerState> state_;  // views of averages_
};

/// Decay of update `t` (from 1).
double ema_decay(const EmaConfig& config, int64_t t);

}  // namespace ashlar
