#include "models/spec/parameters.h"

#include "core/base/error.h"
#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

enum class Part { kTable, kLinear, kGain, kBias, kVector, kAdapter };

struct RoleInfo {
  Role role;
  bool in_layer;
  Part part;
  const char* suffix;  // behind "<stack>." or "<stack>.layers.<i>."
};

// Names of a plain decoder are Hugging Face Llama's, of variants those of the family that has them
// (Qwen3 norms, gpt-oss sinks, DeepSeek latents).
const RoleInfo kRoles[] = {
    {Role::kEmbedding, false, Part::kTable, "embed_tokens.weight"},
    {Role::kBlockEmbedding, false, Part::kTable, "embed_tokens.weight"},
    {Role::kPositions, false, Part::kTable, "embed_positions.weight"},
    {Role::kClsTokens, false, Part::kTable, "cls_tokens.weight"},
    {Role::kProjection, false, Part::kLinear, "embed_projection.weight"},
    {Role::kProjectionBias, false, Part::kBias, "embed_projection.bias"},
    {Role::kAttentionNorm, true, Part::kGain, "input_layernorm.weight"},
    {Role::kAttentionNormBias, true, Part::kBias, "input_layernorm.bias"},
    {Role::kKvNorm, true, Part::kGain, "self_attn.kv_layernorm.weight"},
    {Role::kKvNormBias, true, Part::kBias, "self_attn.kv_layernorm.bias"},
    {Role::kQueryDown, true, Part::kLinear, "self_attn.q_a_proj.weight"},
    {Role::kQueryDownNorm, true, Part::kGain, "self_attn.q_a_layernorm.weight"},
    {Role::kQuery, true, Part::kLinear, "self_attn.q_proj.weight"},
    {Role::kQueryBias, true, Part::kBias, "self_attn.q_proj.bias"},
    {Role::kKey, true, Part::kLinear, "self_attn.k_proj.weight"},
    {Role::kKeyBias, true, Part::kBias, "self_attn.k_proj.bias"},
    {Role::kValue, true, Part::kLinear, "self_attn.v_proj.weight"},
    {Role::kValueBias, true, Part::kBias, "self_attn.v_proj.bias"},
    {Role::kLatent, true, Part::kLinear, "self_attn.kv_a_proj_with_mqa.weight"},
    {Role::kLatentNorm, true, Part::kGain, "self_attn.kv_a_layernorm.weight"},
    {Role::kKeyUp, true, Part::kLinear, "self_attn.k_b_proj.weight"},
    {Role::kValueUp, true, Part::kLinear, "self_attn.v_b_proj.weight"},
    {Role::kQueryNorm, true, Part::kGain, "self_attn.q_norm.weight"},
    {Role::kKeyNorm, true, Part::kGain, "self_attn.k_norm.weight"},
    {Role::kSinks, true, Part::kVector, "self_attn.sinks"},
    {Role::kAttentionOut, true, Part::kLinear, "self_attn.o_proj.weight"},
    {Role::kAttentionOutBias, true, Part::kBias, "self_attn.o_proj.bias"},
    {Role::kCrossNorm, true, Part::kGain, "cross_attn_layernorm.weight"},
    {Role::kCrossNormBias, true, Part::kBias, "cross_attn_layernorm.bias"},
    {Role::kCrossQuery, true, Part::kLinear, "cross_attn.q_proj.weight"},
    {Role::kCrossQueryBias, true, Part::kBias, "cross_attn.q_proj.bias"},
    {Role::kCrossKey, true, Part::kLinear, "cross_attn.k_proj.weight"},
    {Role::kCrossKeyBias, true, Part::kBias, "cross_attn.k_proj.bias"},
    {Role::kCrossValue, true, Part::kLinear, "cross_attn.v_proj.weight"},
    {Role::kCrossValueBias, true, Part::kBias, "cross_attn.v_proj.bias"},
    {Role::kCrossOut, true, Part::kLinear, "cross_attn.o_proj.weight"},
    {Role::kCrossOutBias, true, Part::kBias, "cross_attn.o_proj.bias"},
    {Role::kFfnNorm, true, Part::kGain, "post_attention_layernorm.weight"},
    {Role::kFfnNormBias, true, Part::kBias, "post_attention_layernorm.bias"},
    {Role::kGate, true, Part::kLinear, "mlp.gate_proj.weight"},
    {Role::kGateBias, true, Part::kBias, "mlp.gate_proj.bias"},
    {Role::kUp, true, Part::kLinear, "mlp.up_proj.weight"},
    {Role::kUpBias, true, Part::kBias, "mlp.up_proj.bias"},
    {Role::kDown, true, Part::kLinear, "mlp.down_proj.weight"},
    {Role::kDownBias, true, Part::kBias, "mlp.down_proj.bias"},
    {Role::kFinalNorm, false, Part::kGain, "norm.weight"},
    {Role::kFinalNormBias, false, Part::kBias, "norm.bias"},
    {Role::kExpansion, false, Part::kLinear, "expansion.weight"},
    {Role::kExpansionBias, false, Part::kBias, "expansion.bias"},
    {Role::kHead, false, Part::kLinear, "lm_head.weight"},
    // Behind the name of the matrix they adapt.
    {Role::kLoraDown, true, Part::kAdapter, "lora_a"},
    {Role::kLoraUp, true, Part::kAdapter, "lora_b"},
};

const RoleInfo& info(Role role) {
  for (const RoleInfo& entry : kRoles) {
    if (entry.role == role) return entry;
  }
  fail(ErrorCode::kInternal, "parameter role {} has no name", static_cast<int>(role));
}

class Lister {
 public:
  explicit Lister(const ModelSpec& spec) : spec_(spec) {}
  std::vector<ParameterSpec> list();

 private:
  void add(Role role, std::vector<int64_t> shape) {
    const StackSpec& stack = spec_.stacks[stack_];
    const int64_t layer = info(role).in_layer ? layer_ : -1;
    out_.push_back({parameter_name(stack, role, layer), std::move(shape), role,
                    static_cast<int64_t>(stack_), layer});
  }
  void linear(Role weight, Role bias, bool has_bias, int64_t out, int64_t in) {
    add(weight, {out, in});
    if (has_bias) add(bias, {out});
  }
  void norm(Role gain, Role bias, const NormSpec& spec, int64_t width) {
    add(gain, {width});
    if (spec.bias) add(bias, {width});
  }
  void embedder();
  void cross(const LayerSpec& layer);
  void layer(const LayerSpec& layer);

  const ModelSpec& spec_;
  size_t stack_ = 0;
  int64_t layer_ = -1;
  std::vector<ParameterSpec> out_;
};

void Lister::cross(const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  const int64_t d = spec_.stacks[stack_].d_model;
  const bool bias = a.bias != BiasKind::kNone;
  norm(Role::kCrossNorm, Role::kCrossNormBias, layer.norm, d);
  linear(Role::kCrossQuery, Role::kCrossQueryBias, bias, a.heads * a.head_dim, d);
  linear(Role::kCrossKey, Role::kCrossKeyBias, bias, a.kv_heads * a.head_dim, d);
  linear(Role::kCrossValue, Role::kCrossValueBias, bias, a.kv_heads * a.head_dim, d);
  linear(Role::kCrossOut, Role::kCrossOutBias, a.bias == BiasKind::kAll, d, a.heads * a.head_dim);
}

void Lister::layer(const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  const FfnSpec& ffn = layer.ffn;
  const StackSpec& stack = spec_.stacks[stack_];
  const int64_t d = stack.d_model;
  const bool owner = layer.kv_owner == layer_;
  norm(Role::kAttentionNorm, Role::kAttentionNormBias, layer.norm, d);
  attention_kind(a.kind).parameters(
      layer, d, owner, [&](Role role, std::vector<int64_t> shape) { add(role, std::move(shape)); });
  if (a.sinks) add(Role::kSinks, {a.heads});
  linear(Role::kAttentionOut, Role::kAttentionOutBias, a.bias == BiasKind::kAll, d,
         a.heads * a.value_dim());
  if (spec_.has_cross_attention(stack)) cross(layer);
  norm(Role::kFfnNorm, Role::kFfnNormBias, layer.norm, d);
  if (ffn.gated()) linear(Role::kGate, Role::kGateBias, ffn.bias, ffn.d_ff, d);
  linear(Role::kUp, Role::kUpBias, ffn.bias, ffn.d_ff, d);
  linear(Role::kDown, Role::kDownBias, ffn.bias, d, ffn.d_ff);
}

void Lister::embedder() {
  const StackSpec& stack = spec_.stacks[stack_];
  if (stack.role == StackRole::kEncoder) {
    const int64_t cls = spec_.block->cls_tokens;
    add(Role::kEmbedding, {spec_.vocab_size, stack.d_model});
    add(Role::kPositions, {cls + spec_.block->length, stack.d_model});
    if (cls > 0) add(Role::kClsTokens, {cls, stack.d_model});
    return;
  }
  if (stack.role != StackRole::kGlobal) {
    add(Role::kEmbedding, {spec_.vocab_size, stack.d_model});
    return;
  }
  const BlockSpec& block = *spec_.block;
  switch (block.embedder) {
    case EmbedderKind::kLookup:
      add(Role::kBlockEmbedding, {spec_.vocab_size, stack.d_model / block.length});
      return;
    case EmbedderKind::kProjection:
      add(Role::kBlockEmbedding, {spec_.vocab_size, block.embedding_dim});
      linear(Role::kProjection, Role::kProjectionBias, true, stack.d_model,
             block.length * block.embedding_dim);
      return;
    case EmbedderKind::kEncoder: {
      const int64_t pieces = block.cls_tokens > 0 ? block.cls_tokens : block.length;
      linear(Role::kProjection, Role::kProjectionBias, true, stack.d_model,
             pieces * spec_.stacks[2].d_model);
      return;
    }
  }
}

std::vector<ParameterSpec> Lister::list() {
  for (stack_ = 0; stack_ < spec_.stacks.size(); ++stack_) {
    const StackSpec& stack = spec_.stacks[stack_];
    embedder();
    for (layer_ = 0; layer_ < static_cast<int64_t>(stack.layers.size()); ++layer_) {
      layer(stack.layers[static_cast<size_t>(layer_)]);
    }
    norm(Role::kFinalNorm, Role::kFinalNormBias, stack.final_norm, stack.d_model);
    if (stack.role == StackRole::kGlobal) {
      linear(Role::kExpansion, Role::kExpansionBias, true,
             spec_.block->context_rows() * spec_.token_stack().d_model, stack.d_model);
    } else if (stack.role != StackRole::kEncoder && !spec_.tied_head) {
      add(Role::kHead, {spec_.vocab_size, stack.d_model});
    }
  }
  return std::move(out_);
}

}  // namespace

int64_t ParameterSpec::numel() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

bool ParameterSpec::is_norm() const { return info(role).part == Part::kGain; }
bool ParameterSpec::is_bias() const { return info(role).part == Part::kBias; }
bool ParameterSpec::is_adapter() const { return info(role).part == Part::kAdapter; }
bool ParameterSpec::is_linear() const { return info(role).part == Part::kLinear; }

std::string layer_prefix(const StackSpec& stack, int64_t layer) {
  return std::string(stack_name(stack.role)) + ".layers." + std::to_string(layer);
}

std::string parameter_name(const StackSpec& stack, Role role, int64_t layer) {
  const RoleInfo& entry = info(role);
  if (role == Role::kHead) return entry.suffix;
  const std::string top = stack_name(stack.role);
  return (entry.in_layer ? layer_prefix(stack, layer) : top) + "." + entry.suffix;
}

std::vector<ParameterSpec> parameters(const ModelSpec& spec) { return Lister(spec).list(); }

int64_t parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParameterSpec& p : parameters(spec)) total += p.numel();
  return total;
}

int64_t body_parameter_count(const ModelSpec& spec) {
  int64_t total = 0;
  for (const ParameterSpec& p : parameters(spec)) {
    const bool table = info(p.role).part == Part::kTable;
    if (!p.is_norm() && !table && p.role != Role::kHead) total += p.numel();
  }
  return total;
}

double kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element) {
  double total = 0;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    const auto elements = group.heads * group.entry_width();
    total +=
        static_cast<double>(elements) * bytes_per_element / static_cast<double>(group.entry_tokens);
  }
  return total;
}

double multi_head_kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element) {
  double total = 0;
  for (const StackSpec& stack : spec.stacks) {
    if (stack.role == StackRole::kEncoder) continue;
    for (const LayerSpec& layer : stack.layers) {
      const AttentionSpec& a = layer.attention;
      total += static_cast<double>(a.heads * (a.query_dim() + a.value_dim()));
    }
  }
  return total * bytes_per_element;
}

}  // namespace ashlar
