#pragma once

#include "package/format/model_data.h"

namespace ashlar {

/// What a shared group's K/V projections are made from: the mean of its layers' (arXiv 2405.12981,
/// NeurIPS text, on adapting MQA to CLA) or those of its first layer.
enum class KvPooling { kMean, kFirst };

/// Which layers of a decoder become the block decoder's and the token decoder's (arXiv 2406.02657
/// §3.7 and its code). L source layers, n_b and n_t target layers.
enum class LayerSplit {
  kPartition,  ///< n_b + n_t = L: the lower ones and the upper ones
  kSkip,       ///< n_b = n_t = L/2: every other one, from the first, for both
  kDuplicate,  ///< n_b = n_t = L: all, for both
};

struct AdaptOptions {
  KvPooling kv = KvPooling::kMean;
  LayerSplit split = LayerSplit::kPartition;
};

/// Starting weights, in fp32, for training `target` from `source`; arithmetic in double.
///
///  - The same stacks: tensors are copied. Where layers come to share K/V, the gain of each layer's
///    K/V input norm is folded into its W_k and W_v, these are pooled over the group, and the
///    owner's gain becomes 1 (folded into its W_q too where K/V have no norm of their own). Fewer
///    KV heads are means of neighbouring ones (arXiv 2305.13245 §2.1).
///  - A decoder into a Block Transformer: layers by `split`; the embedder (projection, full width)
///  is
///    the mean of a block's token vectors; every context vector is the block's state; token table,
///    final norm and head are copied; the block stack's final norm begins at 1.
///
/// Throws Error(kRequest) naming the tensor or the sizes when the two do not fit, and for a rotated
/// source.
ModelData adapt_model(const ModelData& source, const ModelSpec& target,
                      const AdaptOptions& options = {});

}  // namespace ashlar
