#pragma once

struct CUstream_st;

namespace ashlar {

/// cudaStream_t without the CUDA headers; null is the default stream.
using CudaStream = CUstream_st*;

/// Throws Error(kResource) that names `what` and CUDA's reason unless `status` (a cudaError_t) is
/// success.
void cuda_check(int status, const char* what);

/// Number of CUDA devices that can be used; 0 without a driver.
int cuda_device_count();

}  // namespace ashlar
