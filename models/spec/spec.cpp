#include "models/spec/spec.h"

#include <fmt/format.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;

NormSpec read_norm(const Node* node, const std::string& path) {
  NormSpec norm;
  if (node == nullptr) return norm;
  NodeReader reader(*node, path);
  norm.kind = static_cast<NormKind>(reader.choice_or("kind", 0, {"rmsnorm"}));
  norm.eps = reader.number_or("eps", norm.eps, 1e-12, 1.0);
  reader.finish();
  return norm;
}

// `base` supplies values an override leaves out; null for the stack's own section.
AttentionSpec read_attention(const Node& node, const std::string& path, const AttentionSpec* base) {
  NodeReader reader(node, path);
  AttentionSpec a = base != nullptr ? *base : AttentionSpec{};
  const bool own = base == nullptr;
  a.heads = own ? reader.integer("heads", 1, 4096) : reader.integer_or("heads", a.heads, 1, 4096);
  a.kv_heads = reader.integer_or("kv_heads", own ? a.heads : a.kv_heads, 1, 4096);
  a.head_dim = own ? reader.integer("head_dim", 2, 4096)
                   : reader.integer_or("head_dim", a.head_dim, 2, 4096);
  a.rope_theta = reader.number_or("rope_theta", a.rope_theta, 1.0, 1e12);
  if (const Node* kind = reader.optional("kv_norm"); kind != nullptr) {
    a.separate_kv_norm = reader.choice("kv_norm", {"shared", "separate"}) == 1;
  }
  if (a.heads % a.kv_heads != 0) {
    fail_at(node, reader.key_path("kv_heads"),
            fmt::format("{} does not divide heads = {}", a.kv_heads, a.heads));
  }
  if (a.head_dim % 2 != 0) {
    fail_at(node, reader.key_path("head_dim"),
            fmt::format("{} is odd, but RoPE turns pairs", a.head_dim));
  }
  reader.finish();
  return a;
}

FfnSpec read_ffn(const Node& node, const std::string& path, const FfnSpec* base) {
  NodeReader reader(node, path);
  FfnSpec ffn = base != nullptr ? *base : FfnSpec{};
  ffn.kind =
      static_cast<FfnKind>(reader.choice_or("kind", static_cast<size_t>(ffn.kind), {"swiglu"}));
  ffn.d_ff = base == nullptr ? reader.integer("d_ff", 1, kMaxDim)
                             : reader.integer_or("d_ff", ffn.d_ff, 1, kMaxDim);
  reader.finish();
  return ffn;
}

void apply_override(const Node& node, const std::string& path, StackSpec& stack) {
  NodeReader reader(node, path);
  const Node& where = reader.required("layers");
  const Node* attention = reader.optional("attention");
  const Node* ffn = reader.optional("ffn");
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
  }
}

StackSpec read_stack(const Node& node, const std::string& path, StackRole role) {
  NodeReader reader(node, path);
  StackSpec stack;
  stack.role = role;
  stack.d_model = reader.integer("d_model", 1, kMaxDim);
  const int64_t count = reader.integer("layers", 1, kMaxLayers);
  const NormSpec norm = read_norm(reader.optional("norm"), reader.key_path("norm"));
  const AttentionSpec attention =
      read_attention(reader.required("attention"), reader.key_path("attention"), nullptr);
  const FfnSpec ffn = read_ffn(reader.required("ffn"), reader.key_path("ffn"), nullptr);
  const Node* sharing = reader.optional("kv_sharing");
  const std::vector<int64_t> owners =
      kv_owners(sharing != nullptr ? *sharing : Node("none"), reader.key_path("kv_sharing"), count);
  stack.final_norm = norm;
  for (int64_t owner : owners) stack.layers.push_back({norm, attention, ffn, owner});
  if (const Node* overrides = reader.optional("overrides")) {
    for (const Node& entry : overrides->as_list()) {
      apply_override(entry, reader.key_path("overrides"), stack);
    }
  }
  reader.finish();
  return stack;
}

BlockSpec read_block(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  BlockSpec block;
  block.length = reader.integer("length", 1, 1024);
  block.embedder = static_cast<EmbedderKind>(reader.choice_or("embedder", 0, {"lookup"}));
  block.context = static_cast<ContextKind>(reader.choice_or("context", 0, {"prefix"}));
  block.prefix_length = reader.integer_or("prefix_length", block.prefix_length, 1, 1024);
  // Padding and the first block have one form so far; the keys are part of the format.
  reader.choice_or("pad", 0, {"none"});
  reader.choice_or("first_block", 0, {"eos"});
  reader.finish();
  return block;
}

}  // namespace

const char* stack_name(StackRole role) {
  switch (role) {
    case StackRole::kDecoder:
      return "model";
    case StackRole::kGlobal:
      return "global";
    case StackRole::kLocal:
      return "local";
  }
  return "";
}

ModelSpec model_spec_from_config(const Node& section) {
  NodeReader reader(section, "model");
  ModelSpec spec;
  spec.kind = static_cast<ModelKind>(reader.choice("kind", {"decoder", "block_transformer"}));
  spec.vocab_size = reader.integer("vocab_size", 2, int64_t{1} << 31);
  spec.context_length = reader.integer_or("context_length", 2048, 1, int64_t{1} << 30);
  spec.tied_head = reader.boolean_or("tied_head", false);
  if (spec.kind == ModelKind::kDecoder) {
    spec.stacks.push_back(
        read_stack(reader.required("decoder"), reader.key_path("decoder"), StackRole::kDecoder));
  } else {
    spec.block = read_block(reader.required("block"), reader.key_path("block"));
    spec.stacks.push_back(
        read_stack(reader.required("global"), reader.key_path("global"), StackRole::kGlobal));
    spec.stacks.push_back(
        read_stack(reader.required("local"), reader.key_path("local"), StackRole::kLocal));
  }
  reader.finish();
  try {
    validate(spec);
  } catch (const Error& error) {
    fail_at(section, "model", error.what());
  }
  return spec;
}

void validate(const ModelSpec& spec) {
  const auto refuse = [](const std::string& message) { throw Error(ErrorCode::kRequest, message); };
  const bool block = spec.kind == ModelKind::kBlockTransformer;
  if (block != spec.block.has_value() || spec.stacks.size() != (block ? 2u : 1u)) {
    refuse("a decoder has one stack; a Block Transformer has a block section and two stacks");
  }
  if (block &&
      (spec.stacks[0].role != StackRole::kGlobal || spec.stacks[1].role != StackRole::kLocal)) {
    refuse("the stacks of a Block Transformer are global, then local");
  }
  if (!block && spec.stacks[0].role != StackRole::kDecoder)
    refuse("a decoder's stack is 'decoder'");
  if (block) {
    if (spec.stacks[0].d_model % spec.block->length != 0) {
      refuse(
          fmt::format("global.d_model = {} is not a multiple of block.length = {}, so the lookup "
                      "embedder cannot concatenate",
                      spec.stacks[0].d_model, spec.block->length));
    }
    if (spec.context_length % spec.block->length != 0) {
      refuse(fmt::format("context_length = {} is not a multiple of block.length = {}",
                         spec.context_length, spec.block->length));
    }
  }
  for (const StackSpec& stack : spec.stacks) {
    for (size_t i = 0; i < stack.layers.size(); ++i) {
      const LayerSpec& layer = stack.layers[i];
      const int64_t owner = layer.kv_owner;
      const std::string where = fmt::format("{} layer {}", stack_name(stack.role), i);
      if (owner < 0 || owner > static_cast<int64_t>(i)) {
        refuse(fmt::format("{} reads K/V of layer {}", where, owner));
      }
      const LayerSpec& source = stack.layers[static_cast<size_t>(owner)];
      if (source.kv_owner != owner) {
        refuse(fmt::format("{} reads layer {}, which owns no K/V", where, owner));
      }
      const AttentionSpec &a = layer.attention, &b = source.attention;
      if (a.kv_heads != b.kv_heads || a.head_dim != b.head_dim || a.rope_theta != b.rope_theta) {
        refuse(
            fmt::format("{} shares K/V with layer {} but differs in kv_heads, head_dim or "
                        "rope_theta",
                        where, owner));
      }
      if (a.heads < 1 || a.kv_heads < 1 || a.heads % a.kv_heads != 0 || a.head_dim < 2 ||
          a.head_dim % 2 != 0 || layer.ffn.d_ff < 1) {
        refuse(fmt::format("{} has impossible sizes", where));
      }
    }
  }
}

std::vector<KvGroup> kv_groups(const ModelSpec& spec) {
  std::vector<KvGroup> groups;
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    const StackSpec& stack = spec.stacks[s];
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      const LayerSpec& layer = stack.layers[l];
      if (layer.kv_owner != static_cast<int64_t>(l)) continue;
      KvGroup group;
      group.id = static_cast<int64_t>(groups.size());
      group.stack = static_cast<int64_t>(s);
      group.owner = static_cast<int64_t>(l);
      for (size_t r = l; r < stack.layers.size(); ++r) {
        if (stack.layers[r].kv_owner == group.owner)
          group.readers.push_back(static_cast<int64_t>(r));
      }
      group.entry_tokens = stack.role == StackRole::kGlobal ? spec.block->length : 1;
      group.lifetime = stack.role == StackRole::kLocal ? KvLifetime::kBlock : KvLifetime::kSequence;
      group.heads = layer.attention.kv_heads;
      group.key_dim = group.value_dim = group.rope_dim = layer.attention.head_dim;
      group.rope_theta = layer.attention.rope_theta;
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

std::vector<int64_t> group_of_layer(const ModelSpec& spec, int64_t stack) {
  std::vector<int64_t> out(spec.stacks[static_cast<size_t>(stack)].layers.size(), -1);
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.stack != stack) continue;
    for (int64_t layer : group.readers) out[static_cast<size_t>(layer)] = group.id;
  }
  return out;
}

}  // namespace ashlar
