#include "kernels/cuda/check.h"

#include <cuda_runtime_api.h>

#include "core/base/error.h"

namespace ashlar {

void cuda_check(int status, const char* what) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  fail(ErrorCode::kResource, "CUDA: {}: {} ({})", what, cudaGetErrorString(error),
       cudaGetErrorName(error));
}

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace ashlar
