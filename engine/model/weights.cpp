#include "engine/model/weights.h"

#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"

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
  const std::byte* source = data + index * width * dtype_bytes(dtype);
  if (dtype == DType::kF32) {
    std::memcpy(out, source, static_cast<size_t>(4 * width));
    return;
  }
  for (int64_t i = 0; i < width; ++i) {
    uint16_t word = 0;
    std::memcpy(&word, source + 2 * i, 2);
    out[i] = dtype == DType::kF16 ? half_to_float(word) : bfloat_to_float(word);
  }
}

WeightStore::WeightStore(const ModelData& model, ActivationKind activation,
                         MemoryProvider& provider)
    : provider_(provider), activation_(activation) {
  const ModelSpec& spec = model.spec;
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    const StackSpec& stack = spec.stacks[s];
    StackWeights weights;
    const bool global = stack.role == StackRole::kGlobal;
    weights.embedding = load_table(model.tensor(parameter_name(
        stack, global ? ParameterRole::kBlockEmbedding : ParameterRole::kEmbedding)));
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      weights.layers.push_back(load_layer(model, static_cast<int64_t>(s), static_cast<int64_t>(l)));
    }
    weights.final_norm =
        load_vector(model.tensor(parameter_name(stack, ParameterRole::kFinalNorm)));
    if (!model.rotation.stacks.empty() && model.rotation.stacks[s].slots) {
      weights.slots_plan = hadamard_plan(spec.block->length);
    }
    if (global) {
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
  const auto& dense = std::get<DenseTensor>(tensor.value);
  std::byte* memory = take(static_cast<int64_t>(dense.data.size()));
  std::memcpy(memory, dense.data.data(), dense.data.size());
  return {dense.dtype, memory, tensor.shape[1]};
}

Linear WeightStore::load_linear(const WeightTensor& tensor) {
  Linear linear;
  LinearShape& shape = linear.shape;
  shape.out = tensor.shape[0];
  shape.in = tensor.shape[1];
  // Copies give the packer the alignment that a file does not promise.
  LinearSource source;
  std::vector<uint16_t> scale, min;
  const auto halves = [](std::span<const std::byte> bytes, std::vector<uint16_t>& out) {
    out.resize(bytes.size() / 2);
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out.empty() ? nullptr : out.data();
  };
  std::vector<uint64_t> aligned;
  const auto align = [&aligned](std::span<const std::byte> bytes) {
    if (reinterpret_cast<uintptr_t>(bytes.data()) % 8 == 0) return bytes.data();
    aligned.resize(bytes.size() / 8 + 1);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    return reinterpret_cast<const std::byte*>(aligned.data());
  };
  if (const auto* dense = std::get_if<DenseTensor>(&tensor.value)) {
    shape.weight = dense_kind(dense->dtype);
    source.data = align(dense->data);
  } else {
    const auto& q = std::get<QuantTensor>(tensor.value);
    shape.weight = q.bits == 8 ? WeightKind::kQ8 : WeightKind::kQ4;
    shape.group = q.group;
    shape.has_min = !q.min.empty();
    shape.activation = activation_;
    source.data = align(q.codes);
    source.scale = halves(q.scale, scale);
    source.min = halves(q.min, min);
  }
  std::byte* packed = take(linear_packed_bytes(shape));
  linear_pack(shape, source, packed);
  linear.packed = packed;
  return linear;
}

LayerWeights WeightStore::load_layer(const ModelData& model, int64_t stack_index, int64_t index) {
  using Role = ParameterRole;
  const StackSpec& stack = model.spec.stacks[static_cast<size_t>(stack_index)];
  const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
  const auto vector = [&](Role role) {
    return load_vector(model.tensor(parameter_name(stack, role, index)));
  };
  const auto linear = [&](Role role) {
    return load_linear(model.tensor(parameter_name(stack, role, index)));
  };
  LayerWeights w;
  w.attention_norm = vector(Role::kAttentionNorm);
  w.ffn_norm = vector(Role::kFfnNorm);
  w.query = linear(Role::kQuery);
  if (layer.kv_owner == index) {
    if (layer.attention.separate_kv_norm) w.kv_norm = vector(Role::kKvNorm);
    w.key = linear(Role::kKey);
    w.value = linear(Role::kValue);
  }
  w.attention_out = linear(Role::kAttentionOut);
  w.gate = linear(Role::kGate);
  w.up = linear(Role::kUp);
  w.down = linear(Role::kDown);
  if (!model.rotation.stacks.empty()) {
    const StackRotation& rotation = model.rotation.stacks[static_cast<size_t>(stack_index)];
    if (rotation.keys) w.keys_plan = hadamard_plan(layer.attention.head_dim);
    if (rotation.heads) w.heads_plan = hadamard_plan(layer.attention.heads);
    if (rotation.down) w.down_plan = hadamard_plan(layer.ffn.d_ff);
  }
  return w;
}

}  // namespace ashlar
