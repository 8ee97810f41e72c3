#include <fmt/format.h>

#include "core/base/error.h"
#include "models/spec/attention_kind.h"

// Combinations that cannot exist, each with its reason.

namespace ashlar {
namespace {

template <typename... Args>
void refuse_if(bool impossible, fmt::format_string<Args...> format, Args&&... args) {
  if (impossible) {
    throw Error(ErrorCode::kRequest, fmt::format(format, std::forward<Args>(args)...));
  }
}

// Whether two layers can read the same cached rows.
bool same_kv(const AttentionSpec& a, const AttentionSpec& b) {
  return a.kind == b.kind && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim &&
         a.rope == b.rope && a.latent_dim == b.latent_dim &&
         a.latent_value_dim == b.latent_value_dim && a.qk_norm == b.qk_norm;
}

void validate_sharing(const StackSpec& stack, size_t index, const std::string& where) {
  const LayerSpec& layer = stack.layers[index];
  const int64_t owner = layer.kv_owner;
  refuse_if(owner > static_cast<int64_t>(index),
            "{} reads K/V of layer {}, which runs later: forward references (LCKV) need iterated "
            "passes and are not supported",
            where, owner);
  refuse_if(owner < 0, "{} reads K/V of layer {}", where, owner);
  const LayerSpec& source = stack.layers[static_cast<size_t>(owner)];
  refuse_if(source.kv_owner != owner, "{} reads layer {}, which owns no K/V", where, owner);
  const AttentionSpec &a = layer.attention, &b = source.attention;
  refuse_if(a.window != b.window,
            "{} (window {}) shares K/V with layer {} (window {}): a window and another reach "
            "never share K/V",
            where, a.window, owner, b.window);
  refuse_if(!same_kv(a, b),
            "{} shares K/V with layer {} but differs in kind, kv_heads, head_dim, RoPE, qk_norm or "
            "latent sizes",
            where, owner);
}

void validate_layer(const StackSpec& stack, size_t index) {
  const LayerSpec& layer = stack.layers[index];
  const AttentionSpec& a = layer.attention;
  const std::string where = fmt::format("{} layer {}", stack_name(stack.role), index);
  refuse_if(a.heads < 1 || a.kv_heads < 1 || a.heads % a.kv_heads != 0 || a.head_dim < 1 ||
                a.rope.dim < 0 || a.rope.dim % 2 != 0 || a.window < 0 || layer.ffn.d_ff < 1,
            "{} has impossible sizes", where);
  refuse_if(layer.norm.bias && layer.norm.kind == NormKind::kRmsNorm, "{}: RMSNorm has no bias",
            where);
  const std::string problem = attention_kind(a.kind).problem(a);
  refuse_if(!problem.empty(), "{}: {}", where, problem);
  refuse_if(layer.residual == ResidualKind::kPost && stack.role != StackRole::kEncoder,
            "{}: residual 'post' is for the block encoder", where);
  validate_sharing(stack, index, where);
}

void validate_encoder(const StackSpec& stack) {
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    const LayerSpec& layer = stack.layers[l];
    const AttentionSpec& a = layer.attention;
    refuse_if(layer.residual != ResidualKind::kPost || a.latent() || a.window != 0 || a.sinks ||
                  a.qk_norm || a.rope.dim != 0 || a.separate_kv_norm ||
                  layer.kv_owner != static_cast<int64_t>(l),
              "encoder layer {}: the block encoder is a plain bidirectional transformer with "
              "learned positions (residual post, no RoPE, window, sinks, qk_norm, kv_sharing or "
              "kv_norm)",
              l);
  }
}

void validate_block(const ModelSpec& spec) {
  const BlockSpec& block = *spec.block;
  const int64_t width = spec.stacks[0].d_model;
  refuse_if(block.embedder == EmbedderKind::kLookup && width % block.length != 0,
            "global.d_model = {} is not a multiple of block.length = {}, so the lookup embedder "
            "cannot concatenate",
            width, block.length);
  refuse_if(spec.context_length % block.length != 0,
            "context_length = {} is not a multiple of block.length = {}", spec.context_length,
            block.length);
  refuse_if(block.local_positions() > spec.context_length,
            "the token decoder's {} positions per block exceed context_length = {}; lower "
            "block.prefix_length or block.length",
            block.local_positions(), spec.context_length);
  const bool encoder = block.embedder == EmbedderKind::kEncoder;
  refuse_if(encoder != (spec.stacks.size() == 3),
            "an `encoder` stack comes with block.embedder: encoder, and only with it");
  if (encoder) validate_encoder(spec.stacks[2]);
}

}  // namespace

void validate(const ModelSpec& spec) {
  const bool block = spec.kind == ModelKind::kBlockTransformer;
  refuse_if(
      block != spec.block.has_value() ||
          (block ? spec.stacks.size() < 2 || spec.stacks.size() > 3 : spec.stacks.size() != 1),
      "a decoder has one stack; a Block Transformer has a block section and two or three");
  const StackRole roles[] = {block ? StackRole::kGlobal : StackRole::kDecoder, StackRole::kLocal,
                             StackRole::kEncoder};
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    refuse_if(spec.stacks[s].role != roles[s], "stack {} should be '{}', not '{}'", s,
              stack_name(roles[s]), stack_name(spec.stacks[s].role));
    for (size_t l = 0; l < spec.stacks[s].layers.size(); ++l) validate_layer(spec.stacks[s], l);
  }
  if (block) validate_block(spec);
}

}  // namespace ashlar
