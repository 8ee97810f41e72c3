#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "attention/row_kernels.h"
#include "models/spec/rope.h"

// Differentiable building blocks of the training models. Every function is pure, takes fp64, fp32
// or bf16 (sums in fp32 for bf16) and reduces in an order that does not depend on the thread count,
// apart from matrix products, which are the BLAS library's. First derivatives only. Tensors of
// other devices than the CPU take operations of ATen instead of the row kernels
// (attention/backend.h).
//
// Shape suffixes: B batch, T positions, D model width, H query heads, G KV heads, E head_dim,
// F d_ff, N rows = B·T, V vocabulary.

namespace ashlar {

/// Cosines and sines of RoPE (arXiv 2104.09864, models/spec/rope.h), half-split pairing
/// (i, i + R/2). Tensors [positions, R/2] in fp32, or fp64 for fp64 models; R is rope.dim.
struct RopeTable {
  at::Tensor cosine;
  at::Tensor sine;
};
/// Angles are computed in double on the host.
RopeTable make_rope_table(int64_t positions, const RopeSpec& rope, at::ScalarType compute,
                          at::Device device = at::kCPU);

/// x·(mean(x²) + eps)^-1/2 · gain over the last dimension. gain [D] is fp32 for bf16 x. Returns
/// {normalised, x}: carrying on with the second saves one pass over the gradient of the skip
/// connection.
std::pair<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps);

/// Rotates dimensions [offset, offset + R) of every head of x [B, T, H, E] by its position
/// t = 0…T−1. The table must have T rows of R/2; R = 0 returns x.
at::Tensor rotate(const at::Tensor& x_BTHE, const RopeTable& table, int64_t offset = 0);

/// LayerNorm (arXiv 1607.06450) over the last dimension; gain and bias [D] in fp32 for bf16 x.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& gain,
                      const std::optional<at::Tensor>& bias, double eps);

/// gate·σ(gate)·up (arXiv 2002.05202).
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// What narrows causal attention. Query t sees keys max(begin[t], t − window + 1) … t.
struct AttentionMask {
  int64_t window = 0;   ///< 0: all
  at::Tensor begin_BT;  ///< int32, not decreasing along T, begin[t] ≤ t; undefined: 0
  at::Tensor sinks_H;   ///< one logit per head that joins the softmax (not scaled, no value)
};

/// softmax(q·kᵀ/√E + causal mask)·v; query head h reads KV head h / (H / G). Equal numbers of
/// queries and keys; v may have another width F. Returns [B, T, H, F].
at::Tensor causal_attention(const at::Tensor& q_BTHE, const at::Tensor& k_BTGE,
                            const at::Tensor& v_BTGF, const AttentionMask& mask = {});

/// The same without any mask: every one of T queries sees all S keys.
at::Tensor full_attention(const at::Tensor& q_BTHE, const at::Tensor& k_BSGE,
                          const at::Tensor& v_BSGE);

/// Options of the loss: soft-capped logits and z-loss.
using LossShape = rows::LossShape;

/// Σ over rows of weight·(−log softmax(hidden·headᵀ)[target] + z·lse²) as a double scalar. Logits
/// are made, used and dropped in chunks of rows, gradients included, so [N, V] never exists. hidden
/// [N, D], head [V, D], targets int64 [N] in [0, V) (checked on the host only), weights fp32 [N].
at::Tensor linear_cross_entropy(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                                const at::Tensor& targets_N, const at::Tensor& weights_N,
                                const LossShape& shape = {});

/// weight·(−log softmax(hidden·headᵀ)[target]) of each row, double [N], without gradients.
at::Tensor linear_losses(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                         const at::Tensor& targets_N, const at::Tensor& weights_N,
                         double softcap = 0);

}  // namespace ashlar
