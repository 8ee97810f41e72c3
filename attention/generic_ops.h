#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

#include "attention/ops.h"

// The operations of attention/row_kernels.h made of ATen's, for tensors the row kernels cannot
// read. The same arithmetic: bf16 is widened to fp32, every result rounded once; sums are in the
// order of the device's reductions. Shapes and formulas as there. Not differentiable, apart from
// causal_attention and layer_norm.

namespace ashlar::generic {

/// {y, inverse_rms [rows]} of x [..., width], rows in order.
std::pair<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps);
/// {dx, dgain}; `residual` may be undefined.
std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& x, const at::Tensor& gain,
                                                    const at::Tensor& inverse_rms,
                                                    const at::Tensor& dy,
                                                    const at::Tensor& residual);

/// Dimensions [offset, offset + R) of each head of x [B, T, H, E].
at::Tensor rotate(const at::Tensor& x_BTHE, const at::Tensor& cosine, const at::Tensor& sine,
                  int64_t offset, int direction);

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
/// {dgate, dup}
std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& gate, const at::Tensor& up,
                                                  const at::Tensor& dy);

/// Writes the losses of `logits` [rows, classes] to `loss` [rows] and, with `gradient`, the
/// derivatives over the logits.
void cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                   const at::Tensor& loss, const LossShape& shape, bool gradient);

/// at::layer_norm with gain and bias in the accumulate type.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& gain,
                      const std::optional<at::Tensor>& bias, double eps);

/// attention/ops.h: causal_attention.
at::Tensor causal_attention(const at::Tensor& q_BTHE, const at::Tensor& k_BTGE,
                            const at::Tensor& v_BTGF, const AttentionMask& mask);

}  // namespace ashlar::generic
