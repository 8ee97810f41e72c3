#include "train/optim/ema.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/sub.h>

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {

double ema_decay(const EmaConfig& config, int64_t t) {
  if (!config.warmup) return config.decay;
  return std::min(config.decay, static_cast<double>(1 + t) / static_cast<double>(10 + t));
}

WeightAverage::WeightAverage(const EmaConfig& config, std::span<const UnitSlice> units)
    : config_(config) {
  for (const UnitSlice& unit : units) {
    averages_.push_back(at::empty_like(unit.values));
    for (const auto& piece : unit.layout->pieces(unit.range)) {
      state_.push_back(
          {"ema", piece.parameter, piece.first, averages_.back().narrow(0, piece.at, piece.count)});
    }
  }
  reset(units);
}

void WeightAverage::reset(std::span<const UnitSlice> units) {
  ASHLAR_CHECK_EQ(units.size(), averages_.size());
  for (size_t u = 0; u < units.size(); ++u) averages_[u].copy_(units[u].values.detach());
}

// One rounding an operation, as in rules.h.
void WeightAverage::update(std::span<const UnitSlice> units, int64_t step) {
  ASHLAR_CHECK_EQ(units.size(), averages_.size());
  if (step % config_.every != 0) return;
  const double share = 1 - ema_decay(config_, step / config_.every);
  for (size_t u = 0; u < units.size(); ++u) {
    averages_[u].add_(at::sub(units[u].values.detach(), averages_[u]).mul_(share));
  }
}

void WeightAverage::swap(std::span<const UnitSlice> units) {
  ASHLAR_CHECK_EQ(units.size(), averages_.size());
  for (size_t u = 0; u < units.size(); ++u) {
    at::Tensor weights = units[u].values.detach();
    const at::Tensor kept = weights.clone();
    weights.copy_(averages_[u]);
    averages_[u].copy_(kept);
  }
}

}  // namespace ashlar
