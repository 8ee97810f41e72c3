#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

// Linear maps of the training models, weights [out, in] as everywhere. fp32 on CPUs goes through
// oneDNN (part of libtorch) where it is the faster of the two libraries, see
// docs/results/training.md. First derivatives only.

namespace ashlar {

/// x·wᵀ [M, N] (+ bias [N]) of x [M, K] and w [N, K]; not differentiable.
at::Tensor times_transposed(const at::Tensor& x, const at::Tensor& w,
                            const std::optional<at::Tensor>& bias = {});
/// x·w [M, N] of x [M, K] and w [K, N]; not differentiable.
at::Tensor times(const at::Tensor& x, const at::Tensor& w);

/// x·wᵀ + bias over the last dimension.
at::Tensor linear_map(const at::Tensor& x, const at::Tensor& w,
                      const std::optional<at::Tensor>& bias = {});

/// x·wᵀ for each weight; one node in the graph, so that the input gradient is summed inside the
/// matrix products.
std::vector<at::Tensor> linear_many(const at::Tensor& x, const at::Tensor& w0, const at::Tensor& w1,
                                    const std::optional<at::Tensor>& w2 = {});

/// residual + x·wᵀ.
at::Tensor linear_add(const at::Tensor& residual, const at::Tensor& x, const at::Tensor& w);

}  // namespace ashlar
