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

/// Fresh values from one seed, normal as `init` says. A value depends only on the seed, the
/// tensor's place in the list and the element's index (Philox).
ParameterSet init_parameters(const ModelSpec& spec, uint64_t seed,
                             at::ScalarType type = at::ScalarType::Float,
                             const InitSpec& init = {});

}  // namespace ashlar
