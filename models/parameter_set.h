#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/parameters.h"

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

/// Fresh values from one seed: N(0, 0.02) for tables and matrices, 0.02/√(2L) for the projections
/// that write to the residual stream (L layers of their stack), N(0, D^-1/2) and bias 0 for the
/// Block Transformer's expansion (arXiv 2406.02657), gains 1. A value depends only on the seed, the
/// tensor's place in the list and the element's index (Philox).
ParameterSet init_parameters(const ModelSpec& spec, uint64_t seed,
                             at::ScalarType type = at::ScalarType::Float);

}  // namespace ashlar
