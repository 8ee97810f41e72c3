#include "models/spec/parameters.h"

#include "core/base/error.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

void add_layer(std::vector<ParameterSpec>& out, const StackSpec& stack, int64_t stack_index,
               int64_t index) {
  const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
  const AttentionSpec& a = layer.attention;
  const int64_t d = stack.d_model;
  const auto add = [&](Role role, std::vector<int64_t> shape) {
    out.push_back({parameter_name(stack, role, index), std::move(shape), role, stack_index, index});
  };
  add(Role::kAttentionNorm, {d});
  add(Role::kQuery, {a.heads * a.head_dim, d});
  if (layer.kv_owner == index) {
    if (a.separate_kv_norm) add(Role::kKvNorm, {d});
    add(Role::kKey, {a.kv_heads * a.head_dim, d});
    add(Role::kValue, {a.kv_heads * a.head_dim, d});
  }
  add(Role::kAttentionOut, {d, a.heads * a.head_dim});
  add(Role::kFfnNorm, {d});
  add(Role::kGate, {layer.ffn.d_ff, d});
  add(Role::kUp, {layer.ffn.d_ff, d});
  add(Role::kDown, {d, layer.ffn.d_ff});
}

}  // namespace

int64_t ParameterSpec::numel() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

bool ParameterSpec::is_norm() const {
  return role == Role::kAttentionNorm || role == Role::kKvNorm || role == Role::kFfnNorm ||
         role == Role::kFinalNorm;
}

bool ParameterSpec::is_linear() const {
  return is_matrix() && role != Role::kEmbedding && role != Role::kBlockEmbedding;
}

std::string layer_prefix(const StackSpec& stack, int64_t layer) {
  return std::string(stack_name(stack.role)) + ".layers." + std::to_string(layer);
}

std::string parameter_name(const StackSpec& stack, Role role, int64_t layer) {
  const std::string top = stack_name(stack.role);
  const auto in_layer = [&](const char* suffix) { return layer_prefix(stack, layer) + suffix; };
  switch (role) {
    case Role::kEmbedding:
    case Role::kBlockEmbedding:
      return top + ".embed_tokens.weight";
    case Role::kAttentionNorm:
      return in_layer(".input_layernorm.weight");
    case Role::kKvNorm:
      return in_layer(".self_attn.kv_layernorm.weight");
    case Role::kQuery:
      return in_layer(".self_attn.q_proj.weight");
    case Role::kKey:
      return in_layer(".self_attn.k_proj.weight");
    case Role::kValue:
      return in_layer(".self_attn.v_proj.weight");
    case Role::kAttentionOut:
      return in_layer(".self_attn.o_proj.weight");
    case Role::kFfnNorm:
      return in_layer(".post_attention_layernorm.weight");
    case Role::kGate:
      return in_layer(".mlp.gate_proj.weight");
    case Role::kUp:
      return in_layer(".mlp.up_proj.weight");
    case Role::kDown:
      return in_layer(".mlp.down_proj.weight");
    case Role::kFinalNorm:
      return top + ".norm.weight";
    case Role::kExpansion:
      return top + ".expansion.weight";
    case Role::kExpansionBias:
      return top + ".expansion.bias";
    case Role::kHead:
      return "lm_head.weight";
  }
  fail(ErrorCode::kInternal, "parameter role {} has no name", static_cast<int>(role));
}

std::vector<ParameterSpec> parameters(const ModelSpec& spec) {
  std::vector<ParameterSpec> out;
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    const StackSpec& stack = spec.stacks[s];
    const auto index = static_cast<int64_t>(s);
    const auto add = [&](Role role, std::vector<int64_t> shape) {
      out.push_back({parameter_name(stack, role), std::move(shape), role, index, -1});
    };
    if (stack.role == StackRole::kGlobal) {
      add(Role::kBlockEmbedding, {spec.vocab_size, stack.d_model / spec.block->length});
    } else {
      add(Role::kEmbedding, {spec.vocab_size, stack.d_model});
    }
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      add_layer(out, stack, index, static_cast<int64_t>(l));
    }
    add(Role::kFinalNorm, {stack.d_model});
    if (stack.role == StackRole::kGlobal) {
      const int64_t width = spec.block->prefix_length * spec.token_stack().d_model;
      add(Role::kExpansion, {width, stack.d_model});
      add(Role::kExpansionBias, {width});
    } else if (!spec.tied_head) {
      add(Role::kHead, {spec.vocab_size, stack.d_model});
    }
  }
  return out;
}

int64_t parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParameterSpec& p : parameters(spec)) total += p.numel();
  return total;
}

int64_t body_parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParameterSpec& p : parameters(spec)) {
    const bool outside = p.is_norm() || p.role == Role::kEmbedding ||
                         p.role == Role::kBlockEmbedding || p.role == Role::kHead;
    if (!outside) total += p.numel();
  }
  return total;
}

double kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element) {
  double total = 0;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    const auto elements = group.heads * (group.key_dim + group.value_dim);
    total +=
        static_cast<double>(elements) * bytes_per_element / static_cast<double>(group.entry_tokens);
  }
  return total;
}

double multi_head_kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element) {
  double total = 0;
  for (const StackSpec& stack : spec.stacks) {
    for (const LayerSpec& layer : stack.layers) {
      total += 2 * static_cast<double>(layer.attention.heads * layer.attention.head_dim);
    }
  }
  return total * bytes_per_element;
}

}  // namespace ashlar
