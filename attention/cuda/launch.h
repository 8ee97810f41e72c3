#pragma once

#include <cstdint>

#include "attention/row_kernels.h"

// The row kernels on a GPU, on device memory, for float and Bf16. Arguments as in
// attention/row_kernels.h. Each call puts its kernels on `stream` (a cudaStream_t) of the current
// device and returns CUDA's reason when that fails, otherwise null.

namespace ashlar::cuda {

/// Rows whose part of dgain one thread adds up.
inline constexpr int64_t kGainRows = 64;

template <typename T>
const char* rms_norm(const T* x, const float* gain, T* y, float* inverse_rms, int64_t rows,
                     int64_t width, float eps, void* stream);

/// `residual` may be null. `parts` [⌈rows/kGainRows⌉, width] receives sums of dgain over groups of
/// rows.
template <typename T>
const char* rms_norm_backward(const T* x, const float* gain, const float* inverse_rms, const T* dy,
                              const T* residual, T* dx, float* parts, int64_t rows, int64_t width,
                              void* stream);

/// x, y [rows, heads, dim]; row r has position r mod positions.
template <typename T>
const char* rotate(const T* x, T* y, const float* cosine, const float* sine, int64_t rows,
                   int64_t positions, int64_t heads, const rows::HeadPart& part, int direction,
                   void* stream);

template <typename T>
const char* swiglu(const T* gate, const T* up, T* y, int64_t count, void* stream);
template <typename T>
const char* swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup,
                            int64_t count, void* stream);

template <typename T>
const char* cross_entropy(T* logits, const int64_t* targets, const float* weights, double* loss,
                          int64_t rows, int64_t classes, const rows::LossShape& shape,
                          bool gradient, void* stream);

}  // namespace ashlar::cuda
