#include "engine/model/weights.h"

#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "package/format/k_quants.h"

namespace ashlar {
namespace {

WeightKind dense_kind(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return WeightKind::kF32;
    case DType::kF16:
      return WeightKind::kF16;
    case DType::kBF16:
      return WeightKind::kBF16;
    default:
      fail(ErrorCode::kInternal, "{} is no weight type", dtype_name(dtype));
  }
}

}  // namespace

void Table::row(int64_t index, float* out) const {
  dequantize_rows(tensor, index, {out, static_cast<size_t>(width)});
}

WeightStore::WeightStore(const ModelData& model, ActivationKind activation,
                         MemoryProvider& provider)
    : provider_(provider), activation_(activation) {
  const ModelSpec& spec = model.spec;
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    const StackSpec& stack = spec.stacks[s];
    StackWeights weights = load_stack(model, stack);
    if (!model.rotation.stacks.empty()) {
      const StackRotation& rotation = model.rotation.stacks[s];
      require(!rotation.slots || spec.block->embedder == EmbedderKind::kLookup, ErrorCode::kData,
              "rotation: 'slots' belongs to the lookup embedder");
      if (rotation.slots) weights.slots_plan = hadamard_plan(spec.block->length);
      for (size_t l = 0; l < stack.layers.size(); ++l) {
        LayerWeights& w = weights.layers[l];
        const LayerSpec& layer = stack.layers[l];
        require(!rotation.keys || !layer.attention.latent(), ErrorCode::kData,
                "rotation: {} layer {} has latent attention, whose keys have no rotation of heads",
                stack_name(stack.role), l);
        if (rotation.keys) w.keys_plan = hadamard_plan(layer.attention.head_dim);
        if (rotation.heads) w.heads_plan = hadamard_plan(layer.attention.heads);
        if (rotation.down) w.down_plan = hadamard_plan(layer.ffn.d_ff);
      }
    }
    if (stack.role == StackRole::kGlobal) {
      expansion_ = load_linear(model.tensor(parameter_name(stack, ParameterRole::kExpansion)));
      expansion_->bias =
          load_vector(model.tensor(parameter_name(stack, ParameterRole::kExpansionBias)));
    }
    stacks_.push_back(std::move(weights));
  }
  const StackSpec& last = spec.token_stack();
  head_ = load_linear(model.tensor(
      parameter_name(last, spec.tied_head ? ParameterRole::kEmbedding : ParameterRole::kHead)));
}

WeightStore::~WeightStore() {
  for (std::byte* block : blocks_) provider_.release(block);
}

std::byte* WeightStore::take(int64_t bytes) {
  std::byte* memory = provider_.allocate(bytes);
  blocks_.push_back(memory);
  bytes_ += bytes;
  return memory;
}

const float* WeightStore::load_vector(const WeightTensor& tensor) {
  const int64_t n = checked_numel(tensor.shape, tensor.name.c_str());
  auto* memory = reinterpret_cast<float*>(take(4 * n));
  dequantize(tensor, {memory, static_cast<size_t>(n)});
  return memory;
}

Table WeightStore::load_table(const WeightTensor& tensor) {
  Table table{{tensor.name, tensor.shape, tensor.value, nullptr}, tensor.shape[1]};
  const auto copy = [this](std::span<const std::byte>& bytes) {
    if (bytes.empty()) return;
    std::byte* memory = take(static_cast<int64_t>(bytes.size()));
    std::memcpy(memory, bytes.data(), bytes.size());
    bytes = {memory, bytes.size()};
  };
  if (auto* dense = std::get_if<DenseTensor>(&table.tensor.value)) {
    copy(dense->data);
  } else if (auto* blocks = std::get_if<BlockTensor>(&table.tensor.value)) {
    copy(blocks->data);
  } else {
    auto& q = std::get<QuantTensor>(table.tensor.value);
    copy(q.codes);
    copy(q.scale);
    copy(q.min);
  }
  return table;
}

Linear WeightStore::load_linear(const WeightTensor& stored) {
  const WeightTensor tensor = unpacked(stored);
  Linear linear;
  LinearShape& shape = linear.shape;
  shape.out = tensor.shape[0];
  shape.in = tensor.shape[1];
  LinearSource source;
  if (const auto* dense = std::get_if<DenseTensor>(&tensor.value)) {
    shape.weight = dense_kind(dense->dtype);
    source.data = dense->data.data();
  } else {
    const auto& q = std::get<QuantTensor>(tensor.value);
    shape.weight = q.bits == 8 ? WeightKind::kQ8 : WeightKind::kQ4;
    shape.group = q.group;
    shape.has_min = !q.min.empty();
    shape.wide_parameters = q.parameters == DType::kF32;
    shape.activation = activation_;
    source = {q.codes.data(), q.scale.data(), q.min.empty() ? nullptr : q.min.data()};
  }
  std::byte* packed = take(linear_packed_bytes(shape));
  linear_pack(shape, source, packed);
  linear.packed = packed;
  return linear;
}

// [heads·n, in] cut into heads maps of n outputs, or of `in` outputs if transposed.
std::vector<Linear> WeightStore::load_heads(const WeightTensor& tensor, int64_t heads,
                                            bool transpose) {
  const std::vector<float> values = to_floats(tensor);
  const auto* dense = std::get_if<DenseTensor>(&tensor.value);
  const DType dtype = dense != nullptr ? dense->dtype : DType::kF32;
  const int64_t rows = tensor.shape[0] / heads, in = tensor.shape[1];
  std::vector<Linear> out;
  std::vector<float> piece(static_cast<size_t>(rows * in));
  for (int64_t h = 0; h < heads; ++h) {
    const float* head = values.data() + h * rows * in;
    for (int64_t i = 0; i < rows * in; ++i) {
      piece[static_cast<size_t>(transpose ? i % in * rows + i / in : i)] = head[i];
    }
    const std::vector<int64_t> shape =
        transpose ? std::vector<int64_t>{in, rows} : std::vector<int64_t>{rows, in};
    out.push_back(load_linear(make_dense(tensor.name, shape, piece, dtype)));
  }
  return out;
}

namespace {

/// Finds the tensors of one layer, or of a stack outside its layers.
struct Finder {
  const ModelData& model;
  const StackSpec& stack;
  int64_t layer = -1;

  /// Nothing when the model has no such tensor; validate() has checked that none is missing.
  std::optional<WeightTensor> find(ParameterRole role) const {
    const std::string name = parameter_name(stack, role, layer);
    return model.has(name) ? std::optional(model.tensor(name)) : std::nullopt;
  }
};

}  // namespace

StackWeights WeightStore::load_stack(const ModelData& model, const StackSpec& stack) {
  using Role = ParameterRole;
  const Finder finder{model, stack, -1};
  StackWeights w;
  const auto table = [&](Role role) {
    const auto t = finder.find(role);
    return t ? load_table(*t) : Table{};
  };
  w.embedding = table(stack.role == StackRole::kGlobal ? Role::kBlockEmbedding : Role::kEmbedding);
  w.positions = table(Role::kPositions);
  w.cls_tokens = table(Role::kClsTokens);
  if (const auto projection = finder.find(Role::kProjection)) {
    w.projection = load_linear(*projection);
    w.projection.bias = load_vector(*finder.find(Role::kProjectionBias));
  }
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    w.layers.push_back(load_layer(model, stack, static_cast<int64_t>(l)));
  }
  w.final_norm.gain = load_vector(*finder.find(Role::kFinalNorm));
  if (const auto bias = finder.find(Role::kFinalNormBias)) {
    w.final_norm.bias = load_vector(*bias);
  }
  return w;
}

LayerWeights WeightStore::load_layer(const ModelData& model, const StackSpec& stack,
                                     int64_t index) {
  using Role = ParameterRole;
  const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
  const Finder finder{model, stack, index};
  const auto vector = [&](Role role) {
    const auto t = finder.find(role);
    return t ? load_vector(*t) : nullptr;
  };
  const auto norm = [&](Role gain, Role bias) { return NormWeights{vector(gain), vector(bias)}; };
  const auto linear = [&](Role role) {
    const auto t = finder.find(role);
    return t ? load_linear(*t) : Linear{};
  };
  const auto biased = [&](Role role, Role bias) {
    Linear out = linear(role);
    out.bias = vector(bias);
    return out;
  };
  LayerWeights w;
  w.attention_norm = norm(Role::kAttentionNorm, Role::kAttentionNormBias);
  w.kv_norm = norm(Role::kKvNorm, Role::kKvNormBias);
  w.cross_norm = norm(Role::kCrossNorm, Role::kCrossNormBias);
  w.ffn_norm = norm(Role::kFfnNorm, Role::kFfnNormBias);
  w.query = biased(Role::kQuery, Role::kQueryBias);
  w.key = biased(Role::kKey, Role::kKeyBias);
  w.value = biased(Role::kValue, Role::kValueBias);
  w.attention_out = biased(Role::kAttentionOut, Role::kAttentionOutBias);
  w.query_norm = vector(Role::kQueryNorm);
  w.key_norm = vector(Role::kKeyNorm);
  w.sinks = vector(Role::kSinks);
  w.query_down = linear(Role::kQueryDown);
  w.query_down_norm = vector(Role::kQueryDownNorm);
  w.latent = linear(Role::kLatent);
  w.latent_norm = vector(Role::kLatentNorm);
  if (layer.attention.latent() && layer.kv_owner == index) {
    w.key_up = load_heads(*finder.find(Role::kKeyUp), layer.attention.heads, true);
    w.value_up = load_heads(*finder.find(Role::kValueUp), layer.attention.heads, false);
  }
  w.cross_query = biased(Role::kCrossQuery, Role::kCrossQueryBias);
  w.cross_key = biased(Role::kCrossKey, Role::kCrossKeyBias);
  w.cross_value = biased(Role::kCrossValue, Role::kCrossValueBias);
  w.cross_out = biased(Role::kCrossOut, Role::kCrossOutBias);
  w.gate = biased(Role::kGate, Role::kGateBias);
  w.up = biased(Role::kUp, Role::kUpBias);
  w.down = biased(Role::kDown, Role::kDownBias);
  w.rope = rope_frequencies(layer.attention.rope);
  return w;
}

}  // namespace ashlar
