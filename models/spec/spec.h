#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"

// The torch-free description of a network. It is resolved from YAML once, says everything layer by
// layer, and the same JSON rides in checkpoints and packages.

namespace ashlar {

enum class ModelKind { kDecoder, kBlockTransformer };
enum class NormKind { kRmsNorm };
enum class FfnKind { kSwiGlu };

struct NormSpec {
  NormKind kind = NormKind::kRmsNorm;
  double eps = 1e-5;
  bool operator==(const NormSpec&) const = default;
};

/// Self-attention of one layer. heads·head_dim need not equal d_model.
struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;  ///< divides heads: heads = MHA, 1 = MQA, between = GQA
  int64_t head_dim = 0;  ///< even (RoPE turns pairs)
  double rope_theta = 10000.0;
  /// CLA (arXiv 2405.12981 §2.3): the K/V projections of an owner layer have a norm gain of their
  /// own instead of sharing the query's.
  bool separate_kv_norm = false;
  bool operator==(const AttentionSpec&) const = default;
};

struct FfnSpec {
  FfnKind kind = FfnKind::kSwiGlu;
  int64_t d_ff = 0;
  bool operator==(const FfnSpec&) const = default;
};

struct LayerSpec {
  NormSpec norm;
  AttentionSpec attention;
  FfnSpec ffn;
  /// Layer (of the same stack) whose K/V this layer attends to; its own index when it projects K/V.
  int64_t kv_owner = 0;
  bool operator==(const LayerSpec&) const = default;
};

enum class StackRole { kDecoder, kGlobal, kLocal };

/// One residual stream and its layers.
struct StackSpec {
  StackRole role = StackRole::kDecoder;
  int64_t d_model = 0;
  NormSpec final_norm;
  std::vector<LayerSpec> layers;
  bool operator==(const StackSpec&) const = default;
};

/// Name in tensor names and YAML: "model", "global", "local".
const char* stack_name(StackRole role);

enum class EmbedderKind { kLookup };
enum class ContextKind { kPrefix };

/// How a Block Transformer (arXiv 2406.02657) cuts text into blocks and hands a block's context to
/// the token decoder.
struct BlockSpec {
  int64_t length = 4;  ///< L_B, tokens per block
  EmbedderKind embedder = EmbedderKind::kLookup;
  ContextKind context = ContextKind::kPrefix;
  int64_t prefix_length = 2;  ///< P, prefix positions made from one block state
  bool operator==(const BlockSpec&) const = default;
};

enum class KvKind { kSelf, kCross, kLatent };
enum class KvLifetime { kSequence, kBlock };

/// The unit of KV caching: one owner layer's K/V and every layer that reads them. Caches, budgets,
/// policies, rotations, quantizers and byte counts are keyed by it.
struct KvGroup {
  int64_t id = 0;                ///< global over stacks, dense from 0
  int64_t stack = 0;             ///< index into ModelSpec::stacks
  int64_t owner = 0;             ///< layer that projects K/V
  std::vector<int64_t> readers;  ///< layers that attend to it, ascending, the owner first
  KvKind kind = KvKind::kSelf;
  int64_t entry_tokens = 1;  ///< text tokens per cache row: 1, or L_B in the block stack
  KvLifetime lifetime = KvLifetime::kSequence;
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  bool value_in_key = false;
  int64_t rope_dim = 0;
  int64_t window = 0;  ///< 0: unlimited
  double rope_theta = 0;
};

struct ModelSpec {
  ModelKind kind = ModelKind::kDecoder;
  int64_t vocab_size = 0;
  int64_t context_length = 0;      ///< longest text in tokens the model was made for
  bool tied_head = false;          ///< head = token embedding table
  std::optional<BlockSpec> block;  ///< set for Block Transformers
  std::vector<StackSpec> stacks;   ///< {decoder} or {global, local}
  bool operator==(const ModelSpec&) const = default;

  /// The stack whose states the head reads: the only one, or the local one.
  const StackSpec& token_stack() const { return stacks.back(); }
  int64_t block_length() const { return block ? block->length : 1; }
};

/// KvGroups in order of (stack, owner).
std::vector<KvGroup> kv_groups(const ModelSpec& spec);
/// For each layer of stack `stack`: id of the group it reads.
std::vector<int64_t> group_of_layer(const ModelSpec& spec, int64_t stack);

/// Reads the `model:` section of a configuration (docs/architecture.md lists the keys). Throws
/// Error(kRequest) with file:line and key for anything unknown, missing or impossible.
ModelSpec model_spec_from_config(const Node& section);

/// The resolved form, layer by layer; `model_spec_from_resolved(to_node(s)) == s`.
Node to_node(const ModelSpec& spec);
/// Reads the resolved form from an untrusted file; throws Error with the reason.
ModelSpec model_spec_from_resolved(const Node& node);

/// Throws Error(kRequest) with the reason if the combination cannot exist.
void validate(const ModelSpec& spec);

/// Owner list of a `kv_sharing` pattern over `layers` layers: entry i is the layer whose K/V layer
/// i reads. Patterns: none, cla<k>, keep_ends, dense_front, dense_back, yoco, or an explicit list.
/// Sources: arXiv 2405.12981 §3 (cla<k>, and the 20-layer KeepEnds, DenseFront and DenseBack
/// drawings, generalised), YOCO (2405.05254). Throws Error(kRequest) at `node` if it cannot apply.
std::vector<int64_t> kv_owners(const Node& node, std::string_view key, int64_t layers);

}  // namespace ashlar
