#pragma once

#include <ATen/core/Tensor.h>

#include "models/training_options.h"

namespace ashlar {

/// Mean over blocks with `mask` of the loss between states [B, N, D] and the embeddings [B, N, D]
/// of the blocks behind them; a scalar in the accumulate type. No block: 0. mask: bool [B, N].
at::Tensor block_decoding_loss(BlockDecodingLoss kind, const at::Tensor& states_BND,
                               const at::Tensor& next_BND, const at::Tensor& mask_BN);

/// mask[b, j]: some token of text block j carries weight; weights [B, T] are of the tokens behind.
at::Tensor weighted_blocks(const at::Tensor& weights_BT, int64_t length);

}  // namespace ashlar
