#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace ashlar {

/// About U·Vᵀ of the singular value decomposition of `matrix` [rows, cols] (fp32): `steps` of the
/// quintic Newton–Schulz iteration of Muon, which brings singular values near 1, not to 1. A matrix
/// of zeros stays one.
at::Tensor orthogonalize(const at::Tensor& matrix, int64_t steps);

}  // namespace ashlar
