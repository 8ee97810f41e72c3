#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/spec.h"

namespace ashlar {

/// What a parameter does; decides initialisation, weight decay, rotation and quantization.
enum class ParameterRole {
  kEmbedding,          ///< token table [V, d]
  kBlockEmbedding,     ///< Block Transformer's table [V, d_global / L_B], projection: [V, E]
  kPositions,          ///< encoder: learned positions [C + L_B, d], the CLS tokens first
  kClsTokens,          ///< encoder [C, d]
  kProjection,         ///< embedder's linear map [d_global, pieces·width]
  kProjectionBias,     ///< [d_global]
  kAttentionNorm,      ///< gain of the query input (and of K/V unless separate_kv_norm) [d]
  kAttentionNormBias,  ///< [d]
  kKvNorm,             ///< gain of the K/V input of an owner layer [d]
  kKvNormBias,         ///< [d]
  kQueryDown,          ///< latent: [query_latent_dim, d]
  kQueryDownNorm,      ///< latent: gain [query_latent_dim]
  kQuery,              ///< [heads·query_dim, d or query_latent_dim]
  kQueryBias,          ///< [heads·head_dim]
  kKey,                ///< [kv_heads·head_dim, d]
  kKeyBias,            ///< [kv_heads·head_dim]
  kValue,              ///< [kv_heads·head_dim, d]
  kValueBias,          ///< [kv_heads·head_dim]
  kLatent,             ///< latent: [latent_dim + rope_dim, d], the shared rotated key last
  kLatentNorm,         ///< latent: gain [latent_dim]
  kKeyUp,              ///< latent: [heads·head_dim, latent_dim]
  kValueUp,            ///< latent: [heads·value_dim, latent_dim]
  kQueryNorm,          ///< qk_norm: gain [head_dim]
  kKeyNorm,            ///< qk_norm: gain [head_dim]
  kSinks,              ///< one logit per query head [heads]
  kAttentionOut,       ///< [d, heads·value_dim]
  kAttentionOutBias,   ///< [d]
  kCrossNorm,          ///< cross-attention: gain of the query input [d]
  kCrossNormBias,      ///< [d]
  kCrossQuery,         ///< [heads·head_dim, d]
  kCrossQueryBias,     ///< [heads·head_dim]
  kCrossKey,           ///< [kv_heads·head_dim, d]
  kCrossKeyBias,       ///< [kv_heads·head_dim]
  kCrossValue,         ///< [kv_heads·head_dim, d]
  kCrossValueBias,     ///< [kv_heads·head_dim]
  kCrossOut,           ///< [d, heads·head_dim]
  kCrossOutBias,       ///< [d]
  kFfnNorm,            ///< [d]
  kFfnNormBias,        ///< [d]
  kGate,               ///< [d_ff, d], SwiGLU only
  kGateBias,           ///< [d_ff]
  kUp,                 ///< [d_ff, d]
  kUpBias,             ///< [d_ff]
  kDown,               ///< [d, d_ff]
  kDownBias,           ///< [d]
  kFinalNorm,          ///< [d]
  kFinalNormBias,      ///< [d]
  kExpansion,          ///< context expansion [context_rows·d_local, d_global]
  kExpansionBias,      ///< [context_rows·d_local]
  kHead,               ///< [V, d]
  kLoraDown,  ///< an adapter's A [rank, in] (models/spec/lora.h); in no list of parameters()
  kLoraUp,    ///< an adapter's B [out, rank]
};

/// One tensor of a model. Matrices are row-major (out, in), as nn.Linear.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  ParameterRole role;
  int64_t stack = 0;
  int64_t layer = -1;  ///< -1 for tensors outside layers
  int64_t numel() const;
  bool is_matrix() const { return shape.size() == 2; }
  /// A linear map (not a lookup table): what weight quantization applies to.
  bool is_linear() const;
  /// A norm's gain.
  bool is_norm() const;
  /// A matrix of a low-rank adapter.
  bool is_adapter() const;
  /// A bias of a linear map or of a norm.
  bool is_bias() const;
};

/// Every parameter of a model in canonical order. Names of a plain decoder are Hugging Face Llama's
/// ("model.layers.0.self_attn.q_proj.weight", ...); Block Transformers use the prefixes "global"
/// and "local" instead of "model". This list is the single source of names and shapes for training,
/// checkpoints, packages and the engine. A tied head has no tensor of its own.
std::vector<ParameterSpec> parameters(const ModelSpec& spec);

/// Prefix of a layer's tensors: "model.layers.3".
std::string layer_prefix(const StackSpec& stack, int64_t layer);
/// Full name of the tensor with `role`; `layer` is ignored for tensors outside layers.
std::string parameter_name(const StackSpec& stack, ParameterRole role, int64_t layer = -1);

int64_t parameter_count(const ModelSpec& spec);
/// Without token tables, head and norms: L(2·d·n_q·d_h + 3·d·ffn) + L_kv·2·d·n_kv·d_h per stack of
/// a decoder without biases, plus embedder and expansion of a Block Transformer.
int64_t body_parameter_count(const ModelSpec& spec);
/// KV-cache bytes one text token costs at `bytes_per_element`, averaged over a block; lifetime
/// "sequence" only.
double kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element);
/// The same for multi-head attention of the same shape: every layer of every stack caches all its
/// heads for every token.
double multi_head_kv_bytes_per_token(const ModelSpec& spec, double bytes_per_element);

}  // namespace ashlar
