#include <cuda_runtime_api.h>

#include "kernels/cuda/fwht_launch.h"

namespace ashlar {
namespace {

constexpr int kThreads = 512;
constexpr int kWarp = 32;

/// FWHT stages of stride below 32 in registers while a row is loaded, the others in shared memory,
/// then the dense factor across slabs. n is at most a few ten thousand: int is enough inside a row.
__global__ void __launch_bounds__(kThreads)
    hadamard_rows(int n, int base, const int8_t* signs, float* x, int64_t rows, float factor,
                  bool transpose) {
  extern __shared__ float shared[];
  const int slab = n / base;
  const int padded = (n + kWarp - 1) / kWarp * kWarp;  // whole warps take part in the shuffles
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    float* data = x + row * n;
    for (int i = threadIdx.x; i < padded; i += kThreads) {
      float v = i < n ? data[i] : 0.0f;
      for (int h = 1; h < kWarp && h < slab; h *= 2) {
        const float other = __shfl_xor_sync(~0u, v, h);
        v = (i & h) != 0 ? other - v : v + other;
      }
      if (i < n) shared[i] = v;
    }
    __syncthreads();
    for (int h = kWarp; h < slab; h *= 2) {
      for (int pair = threadIdx.x; pair < n / 2; pair += kThreads) {
        const int i = pair / h * 2 * h + pair % h;
        const float a = shared[i], b = shared[i + h];
        shared[i] = a + b;
        shared[i + h] = a - b;
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < n; i += kThreads) {
      float sum = shared[i];
      if (base > 1) {
        const int out = i / slab, column = i % slab;
        sum = 0;
        for (int j = 0; j < base; ++j) {
          const int8_t sign = transpose ? signs[out * base + j] : signs[j * base + out];
          sum = fmaf(static_cast<float>(sign), shared[j * slab + column], sum);
        }
      }
      data[i] = sum * factor;
    }
    __syncthreads();  // the next row overwrites shared memory
  }
}

}  // namespace

int launch_hadamard(int n, int base, const int8_t* signs, float* x, int64_t rows, bool transpose,
                    int shared_bytes, CudaStream stream) {
  const cudaError_t status = cudaFuncSetAttribute(
      hadamard_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  const float factor = static_cast<float>(1.0 / sqrt(static_cast<double>(n)));
  const int64_t blocks = rows < 65535 ? rows : 65535;
  hadamard_rows<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(shared_bytes),
                  stream>>>(n, base, signs, x, rows, factor, transpose);
  return cudaGetLastError();
}

}  // namespace ashlar
