#pragma once

#include <cstdint>

// What training is asked to do with a model, beyond its description. No torch here.

namespace ashlar {

/// How fresh parameters are drawn. Gains are 1, biases and sinks 0; the Block Transformer's
/// expansion and projection are N(0, 1/√in) (arXiv 2406.02657, its code).
struct InitSpec {
  double deviation = 0.02;  ///< of tables and matrices; CLA's models use 0.01275 (2405.12981 §3)
  /// Projections that write to the residual stream are divided by √(2L), L layers of their stack
  /// (GPT-2); plain: drawn like the others.
  bool scaled_outputs = true;
  /// Maximal update parametrization (arXiv 2203.03466, table 3): the width at which `deviation` was
  /// found. With m = d_model / base_width linear maps are divided by √m and the head by m; 0: off.
  int64_t base_width = 0;
  /// m of a stack; 1 without a base width.
  double width_ratio(int64_t d_model) const {
    return base_width == 0 ? 1.0 : static_cast<double>(d_model) / static_cast<double>(base_width);
  }
  bool operator==(const InitSpec&) const = default;
};

enum class BlockDecodingLoss { kNone, kMse, kContrastive };

/// Auxiliary losses of a Block Transformer in training (arXiv 2406.02657, appendix, and its code;
/// the paper finds that they do not help). All weights 0: none.
struct BlockLossOptions {
  /// Pulls a block's state towards the embedding of the next block, which is held constant: mean
  /// squared error, or InfoNCE over cosines with temperature 0.07 and the other blocks of the
  /// micro-batch as negatives.
  BlockDecodingLoss decoding = BlockDecodingLoss::kNone;
  double decoding_weight = 1;
  /// Weight of the token decoder's loss when each block's context is made from that block's own
  /// embedding; 0: not computed.
  double auto_encoding_weight = 0;

  bool any() const { return decoding != BlockDecodingLoss::kNone || auto_encoding_weight > 0; }
  bool operator==(const BlockLossOptions&) const = default;
};

}  // namespace ashlar
