#include "export/hf_config_json.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "export/hf.h"
#include "package/format/package.h"

namespace ashlar {
namespace {

bool every_layer(const StackSpec& stack, bool (*holds)(const LayerSpec&)) {
  return std::all_of(stack.layers.begin(), stack.layers.end(), holds);
}

// Alike up to the window, each with K/V of its own, under the final norm.
bool uniform(const StackSpec& stack) {
  for (size_t i = 0; i < stack.layers.size(); ++i) {
    LayerSpec alike = stack.layers[0];
    alike.kv_owner = static_cast<int64_t>(i);
    alike.attention.window = stack.layers[i].attention.window;
    if (stack.layers[i] != alike) return false;
  }
  return stack.final_norm == stack.layers[0].norm;
}

bool is_neox(const StackSpec& stack) {
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  return layer.norm.kind == NormKind::kLayerNorm && layer.norm.bias &&
         layer.ffn.kind == FfnKind::kGelu && layer.ffn.bias && a.bias != BiasKind::kQkv &&
         !a.qk_norm && a.kv_heads == a.heads && a.heads * a.head_dim == stack.d_model &&
         a.rope.dim > 0;
}

// What Llama, Mistral and Qwen have in common.
bool is_llama_like(const LayerSpec& layer) {
  return layer.norm.kind == NormKind::kRmsNorm && layer.residual == ResidualKind::kSequential &&
         layer.ffn.kind == FfnKind::kSwiGlu && layer.attention.rope.dim == layer.attention.head_dim;
}

std::optional<HfFamily> llama_like_family(const StackSpec& stack,
                                          const std::set<int64_t>& windows) {
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  const bool qwen_windows = windows.size() == 1 || (windows.size() == 2 && *windows.begin() == 0);
  const bool whole = stack.d_model % a.heads == 0;  // Llama's class insists
  if (a.qk_norm) {
    if (layer.ffn.bias || a.bias == BiasKind::kQkv || !qwen_windows) return std::nullopt;
    return HfFamily::kQwen3;
  }
  if (a.bias == BiasKind::kQkv) {
    if (layer.ffn.bias || !qwen_windows) return std::nullopt;
    return HfFamily::kQwen2;
  }
  if (windows.size() > 1) return std::nullopt;
  if (*windows.begin() == 0 && whole) return HfFamily::kLlama;
  if (a.bias != BiasKind::kNone || layer.ffn.bias) return std::nullopt;
  return HfFamily::kMistral;
}

std::set<int64_t> windows_of(const StackSpec& stack) {
  std::set<int64_t> windows;
  for (const LayerSpec& layer : stack.layers) windows.insert(layer.attention.window);
  return windows;
}

void add_neox_keys(const StackSpec& stack, Node& config) {
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  config.set("layer_norm_eps", layer.norm.eps);
  config.set("hidden_act", "gelu");
  config.set("use_parallel_residual", layer.residual == ResidualKind::kParallel);
  config.set("attention_bias", a.bias == BiasKind::kAll);
  config.set("rotary_emb_base", a.rope.theta);
  // The library truncates head_dim·rotary_pct.
  const auto dim = static_cast<double>(a.head_dim);
  double share = static_cast<double>(a.rope.dim) / dim;
  if (static_cast<int64_t>(dim * share) != a.rope.dim) share = std::nextafter(share, 1.0);
  config.set("rotary_pct", share);
}

// transformers reads `layer_types`; older versions know only from which layer on windows begin.
void add_qwen_windows(const StackSpec& stack, Node& config) {
  const auto layers = static_cast<int64_t>(stack.layers.size());
  const int64_t window = *windows_of(stack).rbegin();
  config.set("use_sliding_window", window > 0);
  config.set("sliding_window", window > 0 ? Node(window) : Node());
  int64_t first = layers;
  Node types = Node::list();
  for (int64_t l = layers - 1; l >= 0; --l) {
    const bool full = stack.layers[static_cast<size_t>(l)].attention.window == 0;
    if (!full && first == l + 1) first = l;
  }
  for (const LayerSpec& layer : stack.layers) {
    types.push(layer.attention.window > 0 ? "sliding_attention" : "full_attention");
  }
  config.set("max_window_layers", first);
  config.set("layer_types", std::move(types));
}

void add_llama_like_keys(HfFamily family, const StackSpec& stack, Node& config) {
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  config.set("num_key_value_heads", a.kv_heads);
  config.set("head_dim", a.head_dim);
  config.set("rms_norm_eps", layer.norm.eps);
  config.set("hidden_act", "silu");
  config.set("rope_theta", a.rope.theta);
  if (family == HfFamily::kLlama || family == HfFamily::kQwen3) {
    config.set("attention_bias", a.bias == BiasKind::kAll);
  }
  if (family == HfFamily::kLlama) config.set("mlp_bias", layer.ffn.bias);
  if (family == HfFamily::kMistral) {
    config.set("sliding_window", a.window > 0 ? Node(a.window) : Node());
  }
  if (family == HfFamily::kQwen2 || family == HfFamily::kQwen3) add_qwen_windows(stack, config);
}

}  // namespace

std::optional<HfFamily> stock_family(const ModelSpec& spec) {
  if (spec.kind != ModelKind::kDecoder || spec.logit_softcap > 0) return std::nullopt;
  const StackSpec& stack = spec.stacks[0];
  const bool plain = every_layer(stack, [](const LayerSpec& layer) {
    const AttentionSpec& a = layer.attention;
    return !a.latent() && !a.sinks && !a.separate_kv_norm;
  });
  if (!plain || !uniform(stack)) return std::nullopt;
  const std::set<int64_t> windows = windows_of(stack);
  if (is_neox(stack)) {
    return *windows.rbegin() == 0 ? std::optional(HfFamily::kGptNeox) : std::nullopt;
  }
  if (!is_llama_like(stack.layers[0])) return std::nullopt;
  return llama_like_family(stack, windows);
}

Node stock_config(HfFamily family, const ModelSpec& spec) {
  const StackSpec& stack = spec.stacks[0];
  const LayerSpec& layer = stack.layers[0];
  Node config = Node::map();
  config.set("architectures", Node::List{hf_architecture(family)});
  config.set("model_type", hf_model_type(family));
  config.set("hidden_size", stack.d_model);
  config.set("intermediate_size", layer.ffn.d_ff);
  config.set("num_hidden_layers", static_cast<int64_t>(stack.layers.size()));
  config.set("num_attention_heads", layer.attention.heads);
  config.set("max_position_embeddings", spec.context_length);
  if (family == HfFamily::kGptNeox) {
    add_neox_keys(stack, config);
  } else {
    add_llama_like_keys(family, stack, config);
  }
  if (layer.attention.rope.scaling.kind != RopeScalingKind::kNone) {
    config.set("rope_scaling", hf_rope_scaling(layer.attention.rope.scaling));
  }
  return config;
}

}  // namespace ashlar
