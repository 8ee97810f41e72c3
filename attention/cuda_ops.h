#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "attention/row_kernels.h"

// attention/generic_ops.h by the fused kernels of attention/cuda, on the current stream: fp32 and
// bf16, tensors on one GPU. In builds with ASHLAR_TORCH_CUDA only.

namespace ashlar::cuda_ops {

std::pair<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps);
std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& x, const at::Tensor& gain,
                                                    const at::Tensor& inverse_rms,
                                                    const at::Tensor& dy,
                                                    const at::Tensor& residual);
at::Tensor rotate(const at::Tensor& x_BTHE, const at::Tensor& cosine, const at::Tensor& sine,
                  int64_t offset, int direction);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& gate, const at::Tensor& up,
                                                  const at::Tensor& dy);
void cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                   const at::Tensor& loss, const rows::LossShape& shape, bool gradient);

}  // namespace ashlar::cuda_ops
