#include "package/import/hf_names.h"

#include "core/base/error.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

struct NeoxName {
  Role role;
  const char* suffix;  // behind "gpt_neox." or "gpt_neox.layers.<i>."
  int part = -1;
};
constexpr NeoxName kNeoxNames[] = {
    {Role::kEmbedding, "embed_in.weight"},
    {Role::kFinalNorm, "final_layer_norm.weight"},
    {Role::kFinalNormBias, "final_layer_norm.bias"},
    {Role::kAttentionNorm, "input_layernorm.weight"},
    {Role::kAttentionNormBias, "input_layernorm.bias"},
    {Role::kQuery, "attention.query_key_value.weight", 0},
    {Role::kKey, "attention.query_key_value.weight", 1},
    {Role::kValue, "attention.query_key_value.weight", 2},
    {Role::kQueryBias, "attention.query_key_value.bias", 0},
    {Role::kKeyBias, "attention.query_key_value.bias", 1},
    {Role::kValueBias, "attention.query_key_value.bias", 2},
    {Role::kAttentionOut, "attention.dense.weight"},
    {Role::kAttentionOutBias, "attention.dense.bias"},
    {Role::kFfnNorm, "post_attention_layernorm.weight"},
    {Role::kFfnNormBias, "post_attention_layernorm.bias"},
    {Role::kUp, "mlp.dense_h_to_4h.weight"},
    {Role::kUpBias, "mlp.dense_h_to_4h.bias"},
    {Role::kDown, "mlp.dense_4h_to_h.weight"},
    {Role::kDownBias, "mlp.dense_4h_to_h.bias"},
};

}  // namespace

HfName hf_name(HfFamily family, const ParameterSpec& parameter) {
  if (family != HfFamily::kGptNeox) return {parameter.name};  // Llama's names are ours
  if (parameter.role == Role::kHead) return {"embed_out.weight"};
  for (const NeoxName& entry : kNeoxNames) {
    if (entry.role != parameter.role) continue;
    const std::string prefix = parameter.layer < 0
                                   ? "gpt_neox."
                                   : "gpt_neox.layers." + std::to_string(parameter.layer) + ".";
    return {prefix + entry.suffix, entry.part};
  }
  fail(ErrorCode::kInternal, "'{}' has no name in GPT-NeoX", parameter.name);
}

bool is_known_leftover(HfFamily family, const std::string& name) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  return family == HfFamily::kGptNeox &&
         (name.ends_with(".attention.bias") || name.ends_with(".attention.masked_bias"));
}

}  // namespace ashlar
