#include "models/spec/spec.h"

#include <fmt/format.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;
using Names = std::vector<std::string_view>;
const Names kEmbedderNames = {"lookup", "projection", "encoder"};
const Names kContextNames = {"prefix", "summation", "cross_attention"};
const Names kPadNames = {"none", "random"};
const Names kKindNames = {"decoder", "block_transformer"};
const Names kRoleNames = {"model", "global", "local", "encoder"};

void apply_override(const Node& node, const std::string& path, StackSpec& stack) {
  NodeReader reader(node, path);
  const Node& where = reader.required("layers");
  const Node* attention = reader.optional("attention");
  const Node* ffn = reader.optional("ffn");
  const Node* norm = reader.optional("norm");
  const bool residual = reader.has("residual");
  const ResidualKind kind = read_residual(reader, ResidualKind::kSequential);
  reader.finish();
  for (const Node& entry : where.as_list()) {
    const int64_t index = entry.as_int();
    if (index < 0 || index >= static_cast<int64_t>(stack.layers.size())) {
      fail_at(entry, path + ".layers",
              fmt::format("{} is not a layer of 0…{}", index, stack.layers.size() - 1));
    }
    LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    if (attention != nullptr) {
      layer.attention = read_attention(*attention, path + ".attention", &layer.attention);
    }
    if (ffn != nullptr) layer.ffn = read_ffn(*ffn, path + ".ffn", &layer.ffn);
    if (norm != nullptr) layer.norm = read_norm(*norm, path + ".norm", layer.norm);
    if (residual) layer.residual = kind;
  }
}

// Layers of an encoder are those of RoBERTa unless said otherwise.
LayerSpec default_layer(StackRole role) {
  LayerSpec layer;
  if (role != StackRole::kEncoder) return layer;
  layer.norm = {NormKind::kLayerNorm, 1e-5, true};
  layer.residual = ResidualKind::kPost;
  return layer;
}

// Attention and FFN of an encoder: no positions in the heads, biases, GELU.
void encoder_defaults(Node& attention, Node& ffn) {
  if (attention.find("rope_dim") == nullptr) attention.set("rope_dim", int64_t{0});
  if (attention.find("bias") == nullptr) attention.set("bias", "all");
  if (ffn.find("kind") == nullptr) ffn.set("kind", "gelu");
  if (ffn.find("bias") == nullptr) ffn.set("bias", true);
}

StackSpec read_stack(const Node& node, const std::string& path, StackRole role) {
  NodeReader reader(node, path);
  StackSpec stack;
  stack.role = role;
  stack.d_model = reader.integer("d_model", 1, kMaxDim);
  const int64_t count = reader.integer("layers", 1, kMaxLayers);
  LayerSpec layer = default_layer(role);
  if (const Node* norm = reader.optional("norm")) {
    layer.norm = read_norm(*norm, reader.key_path("norm"), layer.norm);
  }
  Node attention = reader.required("attention"), ffn = reader.required("ffn");
  if (role == StackRole::kEncoder) encoder_defaults(attention, ffn);
  layer.attention = read_attention(attention, reader.key_path("attention"), nullptr);
  layer.ffn = read_ffn(ffn, reader.key_path("ffn"), nullptr);
  layer.residual = read_residual(reader, layer.residual);
  const Node* sharing = reader.optional("kv_sharing");
  const std::vector<int64_t> owners =
      kv_owners(sharing != nullptr ? *sharing : Node("none"), reader.key_path("kv_sharing"), count);
  stack.final_norm = layer.norm;
  for (int64_t owner : owners) {
    layer.kv_owner = owner;
    stack.layers.push_back(layer);
  }
  if (const Node* overrides = reader.optional("overrides")) {
    for (const Node& entry : overrides->as_list()) {
      apply_override(entry, reader.key_path("overrides"), stack);
    }
  }
  reader.finish();
  return stack;
}

// The `block` section, in YAML and in the resolved form.
BlockSpec read_block(const Node& node, const std::string& path, int64_t global_width) {
  NodeReader reader(node, path);
  BlockSpec block;
  block.length = reader.integer("length", 1, 1024);
  block.embedder = static_cast<EmbedderKind>(reader.choice_or("embedder", 0, kEmbedderNames));
  if (block.embedder == EmbedderKind::kProjection) {
    block.embedding_dim = reader.integer_or("embedding_dim", global_width, 1, kMaxDim);
  }
  if (block.embedder == EmbedderKind::kEncoder) {
    block.cls_tokens = reader.integer_or("cls_tokens", 3, 0, 1024);
  }
  block.context = static_cast<ContextKind>(reader.choice_or("context", 0, kContextNames));
  if (block.context == ContextKind::kPrefix) {
    block.prefix_length = reader.integer_or("prefix_length", block.prefix_length, 1, 1024);
  } else {
    block.prefix_length = 0;
  }
  block.pad = static_cast<BlockPad>(reader.choice_or("pad", 0, kPadNames));
  // The first block has one form so far; the key is part of the format.
  reader.choice_or("first_block", 0, {"eos"});
  reader.finish();
  return block;
}

}  // namespace

const char* stack_name(StackRole role) { return kRoleNames[static_cast<size_t>(role)].data(); }

ModelSpec model_spec_from_config(const Node& section) {
  NodeReader reader(section, "model");
  ModelSpec spec;
  spec.kind = static_cast<ModelKind>(reader.choice("kind", kKindNames));
  spec.vocab_size = reader.integer("vocab_size", 2, int64_t{1} << 31);
  spec.context_length = reader.integer_or("context_length", 2048, 1, int64_t{1} << 30);
  spec.tied_head = reader.boolean_or("tied_head", false);
  spec.logit_softcap = reader.number_or("logit_softcap", 0, 0, 1e6);
  const auto stack = [&](const char* key, StackRole role) {
    spec.stacks.push_back(read_stack(reader.required(key), reader.key_path(key), role));
  };
  if (spec.kind == ModelKind::kDecoder) {
    stack("decoder", StackRole::kDecoder);
  } else {
    stack("global", StackRole::kGlobal);
    stack("local", StackRole::kLocal);
    spec.block =
        read_block(reader.required("block"), reader.key_path("block"), spec.stacks[0].d_model);
    if (spec.block->embedder == EmbedderKind::kEncoder) stack("encoder", StackRole::kEncoder);
  }
  reader.finish();
  try {
    validate(spec);
  } catch (const Error& error) {
    fail_at(section, "model", error.what());
  }
  return spec;
}

Node to_node(const ModelSpec& spec) {
  Node node = Node::map();
  node.set("kind", std::string(kKindNames[static_cast<size_t>(spec.kind)]));
  node.set("vocab_size", spec.vocab_size);
  node.set("context_length", spec.context_length);
  node.set("tied_head", spec.tied_head);
  node.set("logit_softcap", spec.logit_softcap);
  if (spec.block) {
    const BlockSpec& b = *spec.block;
    Node block =
        Node::Map{{"length", b.length},
                  {"embedder", std::string(kEmbedderNames[static_cast<size_t>(b.embedder)])},
                  {"context", std::string(kContextNames[static_cast<size_t>(b.context)])},
                  {"pad", std::string(kPadNames[static_cast<size_t>(b.pad)])}};
    if (b.embedder == EmbedderKind::kProjection) block.set("embedding_dim", b.embedding_dim);
    if (b.embedder == EmbedderKind::kEncoder) block.set("cls_tokens", b.cls_tokens);
    if (b.context == ContextKind::kPrefix) block.set("prefix_length", b.prefix_length);
    node.set("block", std::move(block));
  }
  Node stacks = Node::list();
  for (const StackSpec& stack : spec.stacks) {
    Node layers = Node::list();
    for (const LayerSpec& layer : stack.layers) layers.push(to_node(layer));
    stacks.push(Node::Map{{"role", stack_name(stack.role)},
                          {"d_model", stack.d_model},
                          {"final_norm", to_node(stack.final_norm)},
                          {"layers", std::move(layers)}});
  }
  node.set("stacks", std::move(stacks));
  return node;
}

// Bounds are those of the YAML reader: a file is untrusted.
ModelSpec model_spec_from_resolved(const Node& node) {
  NodeReader reader(node, "spec");
  ModelSpec spec;
  spec.kind = static_cast<ModelKind>(reader.choice("kind", kKindNames));
  spec.vocab_size = reader.integer("vocab_size", 2, int64_t{1} << 31);
  spec.context_length = reader.integer("context_length", 1, int64_t{1} << 30);
  spec.tied_head = reader.boolean_or("tied_head", false);
  spec.logit_softcap = reader.number_or("logit_softcap", 0, 0, 1e6);
  for (const Node& entry : reader.required("stacks").as_list()) {
    NodeReader s(entry, reader.key_path("stacks"));
    StackSpec stack;
    stack.role = static_cast<StackRole>(s.choice("role", kRoleNames));
    stack.d_model = s.integer("d_model", 1, kMaxDim);
    stack.final_norm = read_norm(s.required("final_norm"), s.key_path("final_norm"), {});
    for (const Node& layer : s.required("layers").as_list()) {
      stack.layers.push_back(read_layer(layer, s.key_path("layers")));
    }
    require(!stack.layers.empty() && stack.layers.size() <= kMaxLayers, ErrorCode::kData,
            "spec.stacks: {} layers", stack.layers.size());
    s.finish();
    spec.stacks.push_back(std::move(stack));
  }
  if (const Node* block = reader.optional("block")) {
    require(!spec.stacks.empty(), ErrorCode::kData, "spec.stacks: empty");
    spec.block = read_block(*block, reader.key_path("block"), spec.stacks[0].d_model);
  }
  reader.finish();
  validate(spec);
  return spec;
}

}  // namespace ashlar
