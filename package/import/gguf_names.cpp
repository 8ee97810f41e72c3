#include "package/import/gguf_names.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "models/spec/rope.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

struct NamedArch {
  GgufArch arch;
  const char* name;
};
constexpr NamedArch kArchs[] = {{GgufArch::kLlama, "llama"},
                                {GgufArch::kQwen2, "qwen2"},
                                {GgufArch::kQwen3, "qwen3"},
                                {GgufArch::kGptNeox, "gptneox"}};

struct NamedRole {
  Role role;
  const char* name;
};
constexpr NamedRole kGlobal[] = {{Role::kEmbedding, "token_embd.weight"},
                                 {Role::kFinalNorm, "output_norm.weight"},
                                 {Role::kFinalNormBias, "output_norm.bias"},
                                 {Role::kHead, "output.weight"}};
constexpr NamedRole kLayer[] = {{Role::kAttentionNorm, "attn_norm.weight"},
                                {Role::kAttentionNormBias, "attn_norm.bias"},
                                {Role::kQuery, "attn_q.weight"},
                                {Role::kQueryBias, "attn_q.bias"},
                                {Role::kKey, "attn_k.weight"},
                                {Role::kKeyBias, "attn_k.bias"},
                                {Role::kValue, "attn_v.weight"},
                                {Role::kValueBias, "attn_v.bias"},
                                {Role::kQueryNorm, "attn_q_norm.weight"},
                                {Role::kKeyNorm, "attn_k_norm.weight"},
                                {Role::kAttentionOut, "attn_output.weight"},
                                {Role::kAttentionOutBias, "attn_output.bias"},
                                {Role::kFfnNorm, "ffn_norm.weight"},
                                {Role::kFfnNormBias, "ffn_norm.bias"},
                                {Role::kGate, "ffn_gate.weight"},
                                {Role::kGateBias, "ffn_gate.bias"},
                                {Role::kUp, "ffn_up.weight"},
                                {Role::kUpBias, "ffn_up.bias"},
                                {Role::kDown, "ffn_down.weight"},
                                {Role::kDownBias, "ffn_down.bias"}};

}  // namespace

const char* gguf_arch_name(GgufArch arch) {
  for (const NamedArch& entry : kArchs) {
    if (entry.arch == arch) return entry.name;
  }
  fail(ErrorCode::kInternal, "architecture {} has no name", static_cast<int>(arch));
}

std::optional<GgufArch> gguf_arch(std::string_view name) {
  for (const NamedArch& entry : kArchs) {
    if (entry.name == name) return entry.arch;
  }
  return std::nullopt;
}

std::optional<std::string> gguf_tensor_name(ParameterRole role, int64_t layer) {
  for (const NamedRole& entry : kGlobal) {
    if (entry.role == role) return entry.name;
  }
  for (const NamedRole& entry : kLayer) {
    if (entry.role == role) return fmt::format("blk.{}.{}", layer, entry.name);
  }
  return std::nullopt;
}

std::string gguf_fused_name(int64_t layer, bool bias) {
  return fmt::format("blk.{}.attn_qkv.{}", layer, bias ? "bias" : "weight");
}

std::vector<int64_t> half_split_rows(int64_t heads, int64_t head_dim, int64_t rope_dim) {
  std::vector<int64_t> rows;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < head_dim; ++i) {
      const int64_t half = rope_dim / 2;
      const int64_t neighbour = i < half ? 2 * i : i < rope_dim ? 2 * (i - half) + 1 : i;
      rows.push_back(h * head_dim + neighbour);
    }
  }
  return rows;
}

bool is_roped(ParameterRole role) {
  return role == Role::kQuery || role == Role::kQueryBias || role == Role::kKey ||
         role == Role::kKeyBias;
}

std::vector<float> llama3_divisors(const RopeSpec& rope) {
  RopeSpec plain = rope;
  plain.scaling = {};
  const std::vector<double> base = rope_frequencies(plain).frequency;
  const std::vector<double> stretched = rope_frequencies(rope).frequency;
  std::vector<float> divisors;
  for (size_t i = 0; i < base.size(); ++i) {
    divisors.push_back(static_cast<float>(base[i] / stretched[i]));
  }
  return divisors;
}

}  // namespace ashlar
