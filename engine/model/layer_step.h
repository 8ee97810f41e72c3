#pragma once

#include <span>
#include <vector>

#include "engine/cache/scratch.h"
#include "engine/model/stack_runner.h"

// What the phases of one layer share; private to the stack runner.
// tensor shape suffixes: R rows of all items, D d_model, H query heads, K KV heads, E head_dim, F
// d_ff, C latent_dim, P turned dimensions of a latent head

namespace ashlar {

/// `buffer` with room for at least `floats`.
float* fit(std::vector<float>& buffer, int64_t floats);

/// One step of one layer.
struct LayerStep {
  const LayerSpec& spec;
  const LayerWeights& weights;
  const LayerWeights& owner;  ///< of the layer that projects the K/V this one reads
  const KvGroup& group;
  const KvGroup* cross = nullptr;
  int64_t reader = 0;          ///< number of this layer among the group's readers
  bool owns = false;           ///< projects the K/V itself
  bool bidirectional = false;  ///< every row sees every row
  std::span<const StackItem> items;
  int64_t rows = 0;
  int64_t d_model = 0;
  Workspace& work;
  ThreadPool& pool;
  AttentionObserver* observer = nullptr;

  const AttentionSpec& a() const { return spec.attention; }
};

/// x += Attention(input). K/V of owner layers with a norm of their own read `source` through it.
/// Needs the rope_cos and rope_sin of the step's rows.
void self_attention(const LayerStep& step, const float* source_RD, const float* input_RD,
                    float* x_RD);
/// x += CrossAttention(input) over the contexts appended to the items' stores.
void cross_attention(const LayerStep& step, const float* input_RD, float* x_RD);

}  // namespace ashlar
