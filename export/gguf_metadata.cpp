#include "export/gguf_metadata.h"

#include <fmt/format.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

template <typename... Args>
void refuse_if(bool impossible, fmt::format_string<Args...> reason, Args&&... args) {
  require(!impossible, ErrorCode::kRequest, "GGUF cannot hold this model: {}",
          fmt::format(reason, std::forward<Args>(args)...));
}

void refuse_unlike_layers(const StackSpec& stack) {
  for (size_t i = 0; i < stack.layers.size(); ++i) {
    LayerSpec alike = stack.layers[0];
    alike.kv_owner = static_cast<int64_t>(i);
    refuse_if(stack.layers[i].kv_owner != alike.kv_owner,
              "layer {} shares the K/V of layer {} (CLA)", i, stack.layers[i].kv_owner);
    refuse_if(stack.layers[i] != alike, "layer {} differs from layer 0", i);
  }
}

void refuse_variants(const ModelData& model) {
  const ModelSpec& spec = model.spec;
  refuse_if(spec.kind != ModelKind::kDecoder, "it is a Block Transformer");
  refuse_if(model.rotation.any_online(),
            "it has online rotations; quantize with a recipe whose rotations are fused, or export "
            "the unquantized model");
  refuse_if(spec.logit_softcap > 0, "logit_softcap");
  const StackSpec& stack = spec.stacks[0];
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  refuse_if(a.latent(), "latent attention (MLA)");
  refuse_unlike_layers(stack);
  refuse_if(stack.final_norm != layer.norm, "the final norm differs from those of the layers");
  refuse_if(a.window > 0 && a.window < spec.context_length,
            "llama.cpp knows no sliding window in these architectures (window {}, context {})",
            a.window, spec.context_length);
  refuse_if(a.sinks, "attention sinks");
  refuse_if(a.separate_kv_norm, "a norm of its own for K and V");
  refuse_if(a.rope.dim == 0, "heads without RoPE");
}

// A LayerNorm model must be a GPT-NeoX in every respect.
void refuse_unlike_neox(const StackSpec& stack) {
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  refuse_if(!layer.norm.bias || layer.ffn.kind != FfnKind::kGelu || !layer.ffn.bias ||
                a.bias != BiasKind::kAll || a.qk_norm || a.kv_heads != a.heads ||
                a.heads * a.head_dim != stack.d_model,
            "with LayerNorm only GPT-NeoX's form: GELU, biases everywhere, as many K/V heads as "
            "heads, heads as wide as the model together");
  refuse_if(a.rope.scaling.kind == RopeScalingKind::kLlama3,
            "Llama 3's RoPE scaling outside architecture llama");
}

}  // namespace

GgufArch gguf_arch_of(const ModelData& model) {
  refuse_variants(model);
  const StackSpec& stack = model.spec.stacks[0];
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  if (layer.norm.kind == NormKind::kLayerNorm) {
    refuse_unlike_neox(stack);
    return GgufArch::kGptNeox;
  }
  refuse_if(layer.ffn.kind != FfnKind::kSwiGlu, "with RMSNorm only SwiGLU");
  refuse_if(layer.residual != ResidualKind::kSequential, "RMSNorm with a parallel residual");
  const bool llama3 = a.rope.scaling.kind == RopeScalingKind::kLlama3;
  if (a.qk_norm) {
    refuse_if(a.bias != BiasKind::kNone || layer.ffn.bias, "QK-norm together with biases");
    refuse_if(llama3, "QK-norm together with Llama 3's RoPE scaling");
    return GgufArch::kQwen3;
  }
  const bool qwen2 = a.bias == BiasKind::kQkv && !layer.ffn.bias && !llama3;
  return qwen2 ? GgufArch::kQwen2 : GgufArch::kLlama;
}

void add_model_keys(const ModelData& model, GgufArch arch, GgufMetadata& out) {
  const ModelSpec& spec = model.spec;
  const StackSpec& stack = spec.stacks[0];
  const LayerSpec& layer = stack.layers[0];
  const AttentionSpec& a = layer.attention;
  const std::string prefix = std::string(gguf_arch_name(arch)) + ".";
  const bool neox = arch == GgufArch::kGptNeox;
  out.text("general.architecture", gguf_arch_name(arch));
  out.text("general.type", "model");
  if (!model.name.empty()) out.text("general.name", model.name);
  out.u32(prefix + "vocab_size", spec.vocab_size);
  out.u32(prefix + "context_length", spec.context_length);
  out.u32(prefix + "embedding_length", stack.d_model);
  out.u32(prefix + "block_count", static_cast<int64_t>(stack.layers.size()));
  out.u32(prefix + "feed_forward_length", layer.ffn.d_ff);
  out.u32(prefix + "attention.head_count", a.heads);
  out.u32(prefix + "attention.head_count_kv", a.kv_heads);
  out.u32(prefix + "attention.key_length", a.head_dim);
  out.u32(prefix + "attention.value_length", a.head_dim);
  out.f32(prefix + (neox ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
          layer.norm.eps);
  if (neox) {
    out.boolean(prefix + "use_parallel_residual", layer.residual == ResidualKind::kParallel);
  }
  out.u32(prefix + "rope.dimension_count", a.rope.dim);
  out.f32(prefix + "rope.freq_base", a.rope.theta);
  const RopeScaling& s = a.rope.scaling;
  if (s.kind == RopeScalingKind::kLinear || s.kind == RopeScalingKind::kYarn) {
    out.text(prefix + "rope.scaling.type", s.kind == RopeScalingKind::kLinear ? "linear" : "yarn");
    out.f32(prefix + "rope.scaling.factor", s.factor);
  }
  if (s.original_context > 0) {
    out.u32(prefix + "rope.scaling.original_context_length", s.original_context);
  }
  if (s.kind == RopeScalingKind::kYarn) {
    out.f32(prefix + "rope.scaling.yarn_beta_fast", s.beta_fast);
    out.f32(prefix + "rope.scaling.yarn_beta_slow", s.beta_slow);
  }
}

}  // namespace ashlar
