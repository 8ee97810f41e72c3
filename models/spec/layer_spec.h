#pragma once

#include <cstdint>

#include "core/base/node.h"

// What one layer of a network is, as plain values.

namespace ashlar {

enum class NormKind { kRmsNorm, kLayerNorm };

struct NormSpec {
  NormKind kind = NormKind::kRmsNorm;
  double eps = 1e-5;
  bool bias = false;  ///< LayerNorm only: a learned shift beside the gain
  bool operator==(const NormSpec&) const = default;
};

enum class RopeScalingKind { kNone, kLinear, kYarn, kLlama3 };

/// Stretching of RoPE beyond the context a model was pretrained with.
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1;             ///< new context / original context
  int64_t original_context = 0;  ///< tokens; YaRN and Llama 3
  double low_freq_factor = 1;    ///< Llama 3
  double high_freq_factor = 4;   ///< Llama 3
  double beta_fast = 32;         ///< YaRN
  double beta_slow = 1;          ///< YaRN
  bool operator==(const RopeScaling&) const = default;
};

/// Rotary positions (arXiv 2104.09864), half-split pairing: dimension i of the rotated part turns
/// with i + dim/2.
struct RopeSpec {
  int64_t dim = 0;  ///< rotated dimensions of a head, even; 0: no positions (NoPE)
  double theta = 10000.0;
  RopeScaling scaling;
  bool operator==(const RopeSpec&) const = default;
};

enum class AttentionKind {
  kGrouped,  ///< MHA, GQA and MQA
  kLatent,   ///< multi-head latent attention (arXiv 2405.04434 §2.1)
};
/// Which projections of attention have a bias.
enum class BiasKind { kNone, kQkv, kAll };

/// Attention of one layer. heads·head_dim need not equal d_model.
struct AttentionSpec {
  AttentionKind kind = AttentionKind::kGrouped;
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads: heads = MHA, 1 = MQA, between = GQA
  int64_t head_dim = 0;  ///< latent: the part of a head without positions
  /// Grouped: the first rope.dim dimensions of every head turn. Latent: rope.dim further dimensions
  /// behind head_dim turn; their key is one vector shared by all heads.
  RopeSpec rope;
  int64_t window = 0;  ///< a query sees its own and the window − 1 positions before; 0: all
  /// RMSNorm over each head of Q and K before RoPE, one gain [head_dim] each. With shared K/V the
  /// owner normalises K before it is shared, every reader its own Q.
  bool qk_norm = false;
  /// One learned logit per query head that takes part in the softmax and carries no value.
  bool sinks = false;
  BiasKind bias = BiasKind::kNone;
  /// CLA (arXiv 2405.12981 §2.3): the K/V projections of an owner layer have a norm gain of their
  /// own instead of sharing the query's.
  bool separate_kv_norm = false;
  // Latent attention only.
  int64_t latent_dim = 0;        ///< width of the cached K/V latent
  int64_t query_latent_dim = 0;  ///< rank of the query projection; 0: full rank
  int64_t latent_value_dim = 0;  ///< width of a head's value
  bool operator==(const AttentionSpec&) const = default;

  bool latent() const { return kind == AttentionKind::kLatent; }
  /// Width of one head's query.
  int64_t query_dim() const { return latent() ? head_dim + rope.dim : head_dim; }
  /// Width of one head's output.
  int64_t value_dim() const { return latent() ? latent_value_dim : head_dim; }
  /// First rotated dimension of a query.
  int64_t rope_offset() const { return latent() ? head_dim : 0; }
};

/// SwiGLU (arXiv 2002.05202), exact GELU (x·Φ(x)) or squared ReLU (arXiv 2109.08668).
enum class FfnKind { kSwiGlu, kGelu, kRelu2 };

struct FfnSpec {
  FfnKind kind = FfnKind::kSwiGlu;
  int64_t d_ff = 0;
  bool bias = false;
  bool operator==(const FfnSpec&) const = default;
  bool gated() const { return kind == FfnKind::kSwiGlu; }
};

enum class ResidualKind {
  kSequential,  ///< x += Attention(norm(x)); x += FFN(norm(x))
  kParallel,    ///< x += Attention(norm₁(x)) + FFN(norm₂(x)) (GPT-NeoX)
  kPost,        ///< x = norm(x + Attention(x)); x = norm(x + FFN(x)): the block encoder only
};

struct LayerSpec {
  NormSpec norm;
  AttentionSpec attention;
  FfnSpec ffn;
  ResidualKind residual = ResidualKind::kSequential;
  /// Layer (of the same stack) whose K/V this layer attends to; its own index when it projects K/V.
  int64_t kv_owner = 0;
  bool operator==(const LayerSpec&) const = default;
};

// Reading from and writing to one map of a configuration or of the resolved form. `base` supplies
// the values that are left out; without it sizes are required. Throw Error(kRequest) at the key.
NormSpec read_norm(const Node& node, const std::string& path, const NormSpec& base);
AttentionSpec read_attention(const Node& node, const std::string& path, const AttentionSpec* base);
FfnSpec read_ffn(const Node& node, const std::string& path, const FfnSpec* base);
ResidualKind read_residual(NodeReader& reader, ResidualKind value);
LayerSpec read_layer(const Node& node, const std::string& path);
Node to_node(const NormSpec& norm);
Node to_node(const LayerSpec& layer);

}  // namespace ashlar
