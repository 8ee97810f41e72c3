#pragma once

#include <cstdint>

#include "kernels/cuda/check.h"

namespace ashlar {

/// Hadamard transform of `rows` contiguous rows of n fp32 values on the device, in place:
/// x ← x·H/√n with H = H_base ⊗ H_{2^m}, n = base·2^m, as hadamard_apply (kernels/hadamard.h) and
/// with the same additions in the same order, hence the same bits. `signs` is the device copy of
/// HadamardPlan::signs (base² bytes), or null when base = 1. `transpose` multiplies by Hᵀ.
///
/// A row lives in shared memory: one that does not fit the device (n ≤ 41728 fits sm_80) is
/// Error(kRequest); a failed launch Error(kResource). Asynchronous on `stream`.
void hadamard_apply_cuda(int64_t n, int64_t base, const int8_t* signs, float* x, int64_t rows,
                         bool transpose = false, CudaStream stream = nullptr);

}  // namespace ashlar
