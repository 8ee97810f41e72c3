#include "kernels/cuda/fwht.h"

#include <cuda_runtime_api.h>

#include <bit>

#include "core/base/error.h"
#include "kernels/cuda/fwht_launch.h"

namespace ashlar {

void hadamard_apply_cuda(int64_t n, int64_t base, const int8_t* signs, float* x, int64_t rows,
                         bool transpose, CudaStream stream) {
  if (rows <= 0) return;
  ASHLAR_CHECK(n >= 1 && base >= 1 && n % base == 0);
  ASHLAR_CHECK(std::has_single_bit(static_cast<uint64_t>(n / base)));
  ASHLAR_CHECK((signs != nullptr) == (base > 1));
  int device = 0, limit = 0;
  cuda_check(cudaGetDevice(&device), "current device");
  cuda_check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "shared memory limit");
  const int64_t largest = limit / static_cast<int64_t>(sizeof(float));
  require(
      n <= largest, ErrorCode::kRequest,
      "Hadamard transform of {} values does not fit the device: at most {} fit its shared memory",
      n, largest);
  cuda_check(launch_hadamard(static_cast<int>(n), static_cast<int>(base), signs, x, rows, transpose,
                             static_cast<int>(n * static_cast<int64_t>(sizeof(float))), stream),
             "launch of hadamard");
}

}  // namespace ashlar
