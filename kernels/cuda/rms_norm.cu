#include <cuda_runtime_api.h>

#include "kernels/cuda/rms_norm.h"

namespace ashlar {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

/// Sum over the block in every thread; the order is fixed.
__device__ float block_sum(float value) {
  __shared__ float partial[kThreads / kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) total += partial[w];
  __syncthreads();  // the next row writes `partial` again
  return total;
}

__global__ void __launch_bounds__(kThreads)
    rms_norm_rows(const float* x, const float* gain, double eps, int64_t rows, int64_t n,
                  float* y) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* in = x + row * n;
    float* out = y + row * n;
    float squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) squares = fmaf(in[i], in[i], squares);
    const double mean = static_cast<double>(block_sum(squares)) / static_cast<double>(n);
    const float inverse = static_cast<float>(1.0 / sqrt(mean + eps));
    for (int64_t i = threadIdx.x; i < n; i += kThreads) out[i] = in[i] * inverse * gain[i];
  }
}

}  // namespace

void rms_norm_cuda(const float* x, const float* gain, double eps, int64_t rows, int64_t n, float* y,
                   CudaStream stream) {
  if (rows <= 0 || n <= 0) return;
  const int64_t blocks = rows < 65535 ? rows : 65535;
  rms_norm_rows<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(x, gain, eps, rows, n, y);
  cuda_check(cudaGetLastError(), "launch of rms_norm");
}

}  // namespace ashlar
