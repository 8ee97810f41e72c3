#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/cache/memory.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "package/format/model_data.h"

namespace ashlar {

/// One linear map packed for this machine; memory belongs to the WeightStore.
struct Linear {
  LinearShape shape;
  const std::byte* packed = nullptr;
  const float* bias = nullptr;
};

/// A lookup table kept as stored: rows of F32, F16 or BF16.
struct Table {
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;
  int64_t width = 0;
  /// Row `index` as floats.
  void row(int64_t index, float* out) const;
};

struct LayerWeights {
  const float* attention_norm = nullptr;
  const float* kv_norm = nullptr;  ///< null: K/V read the query's norm
  const float* ffn_norm = nullptr;
  Linear query, key, value, attention_out, gate, up, down;  ///< key and value only in owner layers
  HadamardPlan keys_plan, heads_plan, down_plan;            ///< n = 0: no online rotation
};

struct StackWeights {
  Table embedding;
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;
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
  Table load_table(const WeightTensor& tensor);
  LayerWeights load_layer(const ModelData& model, int64_t stack, int64_t layer);

  MemoryProvider& provider_;
  ActivationKind activation_;
  std::vector<std::byte*> blocks_;
  std::vector<StackWeights> stacks_;
  Linear head_;
  std::optional<Linear> expansion_;
  int64_t bytes_ = 0;
};

}  // namespace ashlar
