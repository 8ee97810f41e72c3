#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "kernels/cuda/check.h"
#include "tests/support/files.h"

namespace ashlar::test {
namespace {

TEST(CudaCheck, NamesTheCallAndTheReason) {
  cuda_check(cudaSuccess, "nothing");
  expect_error(ErrorCode::kResource, {"CUDA: launch of x", "cudaErrorMemoryAllocation"},
               [] { cuda_check(cudaErrorMemoryAllocation, "launch of x"); });
}

TEST(CudaCheck, CountsDevicesWithoutFailing) { EXPECT_GE(cuda_device_count(), 0); }

}  // namespace
}  // namespace ashlar::test
