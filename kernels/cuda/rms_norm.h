#pragma once

#include <cstdint>

#include "kernels/cuda/check.h"

namespace ashlar {

/// RMSNorm of `rows` rows of n fp32 values on the device: y = x · gain / sqrt(mean(x²) + eps). All
/// pointers are device memory; rows are contiguous; y may alias x. A row's sum depends on n only,
/// never on `rows`. Asynchronous on `stream`; throws Error(kResource) if the launch fails.
void rms_norm_cuda(const float* x, const float* gain, double eps, int64_t rows, int64_t n, float* y,
                   CudaStream stream = nullptr);

}  // namespace ashlar
