#pragma once

#include <cstdint>

#include "kernels/cuda/check.h"

namespace ashlar {

/// The checked launch behind hadamard_apply_cuda; returns a cudaError_t.
int launch_hadamard(int n, int base, const int8_t* signs, float* x, int64_t rows, bool transpose,
                    int shared_bytes, CudaStream stream);

}  // namespace ashlar
