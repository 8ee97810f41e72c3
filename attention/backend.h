#pragma once

#include <ATen/core/Tensor.h>

// Which implementation computes an operation of attention/ops.h: the fused row kernels of CPUs
// (attention/row_kernels.h), or operations of ATen, which every device has.

namespace ashlar {

/// Whether the row kernels may read `t`: it is in host memory, and no GenericOperations is alive.
bool takes_row_kernels(const at::Tensor& t);

/// While it lives, tensors in host memory take the way of other devices: the test of what runs
/// there. Of the whole process, since backward passes run on threads of their own.
class GenericOperations {
 public:
  GenericOperations();
  ~GenericOperations();
  GenericOperations(const GenericOperations&) = delete;
  GenericOperations& operator=(const GenericOperations&) = delete;
};

}  // namespace ashlar
