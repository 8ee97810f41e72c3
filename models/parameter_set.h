#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/parameters.h"
#include "models/training_options.h"

namespace ashlar {

/// The values of a model's parameters: `tensors[i]` is the leaf of `specs[i]`, in the canonical
/// order of `parameters(spec)`.
struct ParameterSet {
  std::vector<ParameterSpec> specs;
  std::vector<at::Tensor> tensors;

  /// Throws Error(kInternal) for an unknown name.
  const at::Tensor& at(const std::string& name) const;
  void require_grad(bool on);
};

/// Fresh values of parameter `index` of `specs` = parameters(spec), normal as `init` says. A value
/// depends only on the seed, the index and the element's index (Philox).
at::Tensor init_parameter(const ModelSpec& spec, const std::vector<ParameterSpec>& specs,
                          size_t index, uint64_t seed, at::ScalarType type, const InitSpec& init);

/// All of them.
ParameterSet init_parameters(const ModelSpec& spec, uint64_t seed,
                             at::ScalarType type = at::ScalarType::Float,
                             const InitSpec& init = {});

}  // namespace ashlar
