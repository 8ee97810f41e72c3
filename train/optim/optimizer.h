#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/spec/parameters.h"
#include "train/dist/unit_layout.h"
#include "train/optim/config.h"

namespace ashlar {

/// One unit as this rank updates it.
struct UnitSlice {
  const UnitLayout* layout = nullptr;
  UnitLayout::Range range;  ///< of the unit's storage
  at::Tensor values;        ///< fp32 [range.size()], updated in place
  at::Tensor gradients;     ///< fp32 [range.size()]
};

struct OptimizerStep {
  int64_t step = 0;  ///< from 1
  double lr = 0;
  /// The whole storage [layout.size] of unit `unit` from every rank's slice of it. A collective:
  /// every rank calls it for the same units in the same order.
  std::function<at::Tensor(size_t unit, const at::Tensor& slice)> gather;
};

/// Optimizer state of one piece of a parameter.
struct OptimizerState {
  std::string name;      ///< "exp_avg", ...
  size_t parameter = 0;  ///< index into parameters(spec)
  int64_t first = 0;     ///< element of the parameter
  at::Tensor values;     ///< fp32, 1-D
};

/// Updates the slices it was made for. The update of an element does not depend on how storage is
/// cut into slices, bit for bit.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual void step(std::span<const UnitSlice> units, const OptimizerStep& step) = 0;
  /// What a checkpoint holds; tensors may be written to.
  virtual const std::vector<OptimizerState>& state() const = 0;
};

/// `units` as in every later step (gradients are not looked at yet).
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const std::vector<ParameterSpec>& specs,
                                          std::span<const UnitSlice> units);

}  // namespace ashlar
