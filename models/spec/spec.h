#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/layer_spec.h"

// The torch-free description of a network. It is resolved from YAML once, says everything layer by
// layer, and the same JSON rides in checkpoints and packages.

namespace ashlar {

enum class ModelKind { kDecoder, kBlockTransformer };

enum class StackRole { kDecoder, kGlobal, kLocal, kEncoder };

/// One residual stream and its layers.
struct StackSpec {
  StackRole role = StackRole::kDecoder;
  int64_t d_model = 0;
  /// After the last layer; of an encoder, whose layers end normalised, before the first one.
  NormSpec final_norm;
  std::vector<LayerSpec> layers;
  bool operator==(const StackSpec&) const = default;
};

/// Name in tensor names and YAML: "model", "global", "local", "encoder".
const char* stack_name(StackRole role);

/// How a block of tokens becomes one vector (arXiv 2406.02657 §2.2, §3.5).
enum class EmbedderKind {
  kLookup,      ///< L_B vectors of width D/L_B side by side
  kProjection,  ///< L_B vectors of embedding_dim side by side, then a linear map with bias
  /// A small bidirectional encoder (`encoder` stack, learned positions) over [CLS…, tokens]; the
  /// outputs at the CLS tokens (without any, at all tokens) side by side, then a linear map with
  /// bias.
  kEncoder,
};
/// How a block's state reaches the token decoder of the next block.
enum class ContextKind {
  kPrefix,          ///< P vectors in front of the tokens
  kSummation,       ///< L_B vectors added to [start, t1…t_{L_B−1}]
  kCrossAttention,  ///< L_B vectors attended to in every layer, between self-attention and FFN
};
/// Padding of documents in training (reference: tokenized_corpus of the paper's code).
enum class BlockPad {
  kNone,    ///< documents are packed as they come
  kRandom,  ///< 0…L_B−1 pads (fixed per document) before each document, pads after it to a block
};

/// How a Block Transformer (arXiv 2406.02657) cuts text into blocks and hands a block's context to
/// the token decoder.
struct BlockSpec {
  int64_t length = 4;  ///< L_B, tokens per block
  EmbedderKind embedder = EmbedderKind::kLookup;
  int64_t embedding_dim = 0;  ///< projection: width of a token's vector
  int64_t cls_tokens = 0;     ///< encoder
  ContextKind context = ContextKind::kPrefix;
  int64_t prefix_length = 2;  ///< P, prefix only
  BlockPad pad = BlockPad::kNone;
  bool operator==(const BlockSpec&) const = default;

  /// Vectors of the token decoder's width made from one block state: P, or L_B.
  int64_t context_rows() const { return context == ContextKind::kPrefix ? prefix_length : length; }
  /// Positions of the token decoder per block.
  int64_t local_positions() const {
    return context == ContextKind::kPrefix ? prefix_length + length - 1 : length;
  }
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
  KvKind kind = KvKind::kSelf;   ///< cross groups are numbered behind all others
  int64_t entry_tokens = 1;      ///< text tokens per cache row: 1, or L_B in the block stack
  KvLifetime lifetime = KvLifetime::kSequence;
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  bool value_in_key = false;  ///< the value is the first value_dim elements of the key
  int64_t rope_dim = 0;
  int64_t window = 0;  ///< 0: unlimited
  double rope_theta = 0;

  /// Elements cached per head and row.
  int64_t entry_width() const { return key_dim + (value_in_key ? 0 : value_dim); }
};

struct ModelSpec {
  ModelKind kind = ModelKind::kDecoder;
  int64_t vocab_size = 0;
  int64_t context_length = 0;      ///< longest text in tokens the model was made for
  bool tied_head = false;          ///< head = token embedding table
  double logit_softcap = 0;        ///< c > 0: logits become c·tanh(logits/c) (Gemma 2)
  std::optional<BlockSpec> block;  ///< set for Block Transformers
  std::vector<StackSpec> stacks;   ///< {decoder}, {global, local} or {global, local, encoder}
  bool operator==(const ModelSpec&) const = default;

  /// The stack whose states the head reads: the only one, or the local one.
  const StackSpec& token_stack() const { return stacks[block ? 1 : 0]; }
  /// Whether layers of `stack` attend to the block's context rows.
  bool has_cross_attention(const StackSpec& stack) const {
    return stack.role == StackRole::kLocal && block->context == ContextKind::kCrossAttention;
  }
  int64_t block_length() const { return block ? block->length : 1; }
};

/// KvGroups in order of (stack, owner); those of cross-attention, one per layer, come last. An
/// encoder has none.
std::vector<KvGroup> kv_groups(const ModelSpec& spec);
/// For each layer of stack `stack`: id of the group of `kind` (self or latent are one) it reads.
std::vector<int64_t> group_of_layer(const ModelSpec& spec, int64_t stack,
                                    KvKind kind = KvKind::kSelf);

/// "self", "cross" or "latent".
const char* kv_kind_name(KvKind kind);
/// What `plan` and `inspect` say of a group.
Node to_node(const ModelSpec& spec, const KvGroup& group);

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
