#include <fmt/format.h>

#include "core/base/error.h"
#include "models/spec/spec.h"

// The resolved JSON form of a ModelSpec. Bounds are those of the YAML reader: a file is untrusted.

namespace ashlar {
namespace {

constexpr int64_t kMaxDim = int64_t{1} << 20;

Node norm_node(const NormSpec& norm) { return Node::Map{{"kind", "rmsnorm"}, {"eps", norm.eps}}; }

NormSpec norm_from(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  NormSpec norm;
  norm.kind = static_cast<NormKind>(reader.choice("kind", {"rmsnorm"}));
  norm.eps = reader.number("eps", 1e-12, 1.0);
  reader.finish();
  return norm;
}

Node layer_node(const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  return Node::Map{
      {"norm", norm_node(layer.norm)},
      {"attention", Node::Map{{"heads", a.heads},
                              {"kv_heads", a.kv_heads},
                              {"head_dim", a.head_dim},
                              {"rope_theta", a.rope_theta},
                              {"kv_norm", a.separate_kv_norm ? "separate" : "shared"}}},
      {"ffn", Node::Map{{"kind", "swiglu"}, {"d_ff", layer.ffn.d_ff}}},
      {"kv_owner", layer.kv_owner}};
}

LayerSpec layer_from(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  LayerSpec layer;
  layer.norm = norm_from(reader.required("norm"), reader.key_path("norm"));
  NodeReader attention(reader.required("attention"), reader.key_path("attention"));
  AttentionSpec& a = layer.attention;
  a.heads = attention.integer("heads", 1, 4096);
  a.kv_heads = attention.integer("kv_heads", 1, 4096);
  a.head_dim = attention.integer("head_dim", 2, 4096);
  a.rope_theta = attention.number("rope_theta", 1.0, 1e12);
  a.separate_kv_norm = attention.choice("kv_norm", {"shared", "separate"}) == 1;
  attention.finish();
  NodeReader ffn(reader.required("ffn"), reader.key_path("ffn"));
  layer.ffn.kind = static_cast<FfnKind>(ffn.choice("kind", {"swiglu"}));
  layer.ffn.d_ff = ffn.integer("d_ff", 1, kMaxDim);
  ffn.finish();
  layer.kv_owner = reader.integer("kv_owner", 0, 1023);
  reader.finish();
  return layer;
}

}  // namespace

Node to_node(const ModelSpec& spec) {
  Node node = Node::map();
  node.set("kind", spec.kind == ModelKind::kDecoder ? "decoder" : "block_transformer");
  node.set("vocab_size", spec.vocab_size);
  node.set("context_length", spec.context_length);
  node.set("tied_head", spec.tied_head);
  if (spec.block) {
    node.set("block", Node::Map{{"length", spec.block->length},
                                {"embedder", "lookup"},
                                {"context", "prefix"},
                                {"prefix_length", spec.block->prefix_length}});
  }
  Node stacks = Node::list();
  for (const StackSpec& stack : spec.stacks) {
    Node layers = Node::list();
    for (const LayerSpec& layer : stack.layers) layers.push(layer_node(layer));
    stacks.push(Node::Map{{"role", stack_name(stack.role)},
                          {"d_model", stack.d_model},
                          {"final_norm", norm_node(stack.final_norm)},
                          {"layers", std::move(layers)}});
  }
  node.set("stacks", std::move(stacks));
  return node;
}

ModelSpec model_spec_from_resolved(const Node& node) {
  NodeReader reader(node, "spec");
  ModelSpec spec;
  spec.kind = static_cast<ModelKind>(reader.choice("kind", {"decoder", "block_transformer"}));
  spec.vocab_size = reader.integer("vocab_size", 2, int64_t{1} << 31);
  spec.context_length = reader.integer("context_length", 1, int64_t{1} << 30);
  spec.tied_head = reader.boolean_or("tied_head", false);
  if (const Node* block = reader.optional("block")) {
    NodeReader b(*block, reader.key_path("block"));
    BlockSpec value;
    value.length = b.integer("length", 1, 1024);
    value.embedder = static_cast<EmbedderKind>(b.choice("embedder", {"lookup"}));
    value.context = static_cast<ContextKind>(b.choice("context", {"prefix"}));
    value.prefix_length = b.integer("prefix_length", 1, 1024);
    b.finish();
    spec.block = value;
  }
  const Node& stacks = reader.required("stacks");
  for (const Node& entry : stacks.as_list()) {
    NodeReader s(entry, reader.key_path("stacks"));
    StackSpec stack;
    stack.role = static_cast<StackRole>(s.choice("role", {"model", "global", "local"}));
    stack.d_model = s.integer("d_model", 1, kMaxDim);
    stack.final_norm = norm_from(s.required("final_norm"), s.key_path("final_norm"));
    for (const Node& layer : s.required("layers").as_list()) {
      stack.layers.push_back(layer_from(layer, s.key_path("layers")));
    }
    require(!stack.layers.empty() && stack.layers.size() <= 1024, ErrorCode::kData,
            "spec.stacks: {} layers", stack.layers.size());
    s.finish();
    spec.stacks.push_back(std::move(stack));
  }
  reader.finish();
  validate(spec);
  return spec;
}

}  // namespace ashlar
