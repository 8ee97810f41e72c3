#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/cache/memory.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "models/spec/rope.h"
#include "package/format/model_data.h"

namespace ashlar {

/// One linear map packed for this machine; memory belongs to the WeightStore.
struct Linear {
  LinearShape shape;
  const std::byte* packed = nullptr;
  const float* bias = nullptr;
};

/// A lookup table kept as stored, codes or blocks included; memory belongs to the WeightStore.
struct Table {
  WeightTensor tensor;
  int64_t width = 0;
  /// Row `index` as floats.
  void row(int64_t index, float* out) const;
};

/// Gain and, for LayerNorm, bias (null: none).
struct NormWeights {
  const float* gain = nullptr;
  const float* bias = nullptr;
};

/// Weights of one layer; what its variant lacks is null or empty. K/V projections and the latent's
/// up-projections are those of owner layers only.
struct LayerWeights {
  NormWeights attention_norm;
  NormWeights kv_norm;  ///< without a gain K/V read the query's norm
  NormWeights cross_norm;
  NormWeights ffn_norm;
  Linear query, key, value, attention_out, gate, up, down;
  const float* query_norm = nullptr;  ///< per head [head_dim]
  const float* key_norm = nullptr;    ///< likewise
  const float* sinks = nullptr;       ///< [heads]
  // Latent attention. The up-projections are cut by head; the key's is transposed, [latent_dim,
  // head_dim], because it is applied to queries. Quantized ones are kept as fp32 of the same
  // values.
  Linear query_down, latent;
  const float* query_down_norm = nullptr;  ///< [query_latent_dim]
  const float* latent_norm = nullptr;      ///< [latent_dim]
  std::vector<Linear> key_up, value_up;
  Linear cross_query, cross_key, cross_value, cross_out;
  RopeFrequencies rope;
  HadamardPlan keys_plan, heads_plan, down_plan;  ///< n = 0: no online rotation
};

struct StackWeights {
  Table embedding;              ///< empty in the global stack of an encoder embedder
  Table positions, cls_tokens;  ///< encoder
  Linear projection;            ///< global stack of a projection or encoder embedder
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  HadamardPlan slots_plan;  ///< global stack: across the L_B slots
};

/// All weights of a model, copied and packed into memory of `provider`; nothing points into a file
/// mapping afterwards.
class WeightStore {
 public:
  /// `activation` applies to quantized linear maps.
  WeightStore(const ModelData& model, ActivationKind activation, MemoryProvider& provider);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  const std::vector<StackWeights>& stacks() const { return stacks_; }
  const Linear& head() const { return head_; }
  const std::optional<Linear>& expansion() const { return expansion_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* take(int64_t bytes);
  const float* load_vector(const WeightTensor& tensor);
  Linear load_linear(const WeightTensor& tensor);
  std::vector<Linear> load_heads(const WeightTensor& tensor, int64_t heads, bool transpose);
  Table load_table(const WeightTensor& tensor);
  StackWeights load_stack(const ModelData& model, const StackSpec& stack);
  LayerWeights load_layer(const ModelData& model, const StackSpec& stack, int64_t layer);

  MemoryProvider& provider_;
  ActivationKind activation_;
  std::vector<std::byte*> blocks_;
  std::vector<StackWeights> stacks_;
  Linear head_;
  std::optional<Linear> expansion_;
  int64_t bytes_ = 0;
};

}  // namespace ashlar
