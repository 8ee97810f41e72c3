#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train/config.h"

namespace ashlar {

/// One optimizer over flat fp32 storage: elements [0, decayed) get weight decay, the rest do not.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// Updates `values` in place from `gradients`. `step` counts from 1.
  virtual void step(const at::Tensor& values, const at::Tensor& gradients, int64_t step,
                    double lr) = 0;
  /// State tensors by name, each as long as `values`; a checkpoint holds them cut up by parameter.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const = 0;
};

/// Registry of optimizers (OptimizerConfig::kind). `elements` and `decayed` describe the storage.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, int64_t elements,
                                          int64_t decayed);

}  // namespace ashlar
