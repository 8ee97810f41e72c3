#pragma once

#include <ATen/core/Tensor.h>

// Which implementation computes an operation of attention/ops.h: the fused row kernels of CPUs
// (attention/row_kernels.h), or operations of ATen, which every device has.

namespace ashlar {

/// Whether the row kernels may read `t`: it is in host memory, and no GenericOperations is alive.
bool takes_row_kernels(const at::Tensor& t);

/// Whether the fused kernels of attention/cuda may: it is on a GPU, not fp64, this build has them,
/// and no GenericOperations is alive.
bool takes_cuda_kernels(const at::Tensor& t);

/// While it lives, operations of ATen are what every tensor takes: the test of what runs on devices
/// without kernels of their own, and the reference for those that have them. Of the whole process,
/// since backward passes run on threads of their own.
class GenericOperations {
 public:
  GenericOperations();
  ~GenericOperations();
  GenericOperations(const GenericOperations&) = delete;
  GenericOperations& operator=(const GenericOperations&) = delete;
};

}  // namespace ashlar
