#include <fmt/format.h>

#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 30;

using Names = std::vector<std::string_view>;
const Names kNormNames = {"rmsnorm", "layernorm"};
const Names kBiasNames = {"none", "qkv", "all"};
const Names kKvNormNames = {"shared", "separate"};
const Names kFfnNames = {"swiglu", "gelu", "relu2"};
const Names kResidualNames = {"sequential", "parallel", "post"};
const Names kScalingNames = {"none", "linear", "yarn", "llama3"};

template <typename Enum>
Enum choice(NodeReader& reader, std::string_view key, Enum value, const Names& names) {
  return static_cast<Enum>(reader.choice_or(key, static_cast<size_t>(value), names));
}

template <typename Enum>
std::string name_of(Enum value, const Names& names) {
  return std::string(names[static_cast<size_t>(value)]);
}

RopeScaling read_scaling(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  RopeScaling s;
  s.kind = static_cast<RopeScalingKind>(reader.choice("kind", kScalingNames));
  if (s.kind != RopeScalingKind::kNone) s.factor = reader.number("factor", 1.0, 1e6);
  if (s.kind == RopeScalingKind::kYarn || s.kind == RopeScalingKind::kLlama3) {
    s.original_context = reader.integer("original_context", 1, kMaxContext);
  }
  if (s.kind == RopeScalingKind::kLlama3) {
    s.low_freq_factor = reader.number_or("low_freq_factor", s.low_freq_factor, 1e-3, 1e6);
    s.high_freq_factor = reader.number_or("high_freq_factor", s.high_freq_factor, 1e-3, 1e6);
    if (s.high_freq_factor <= s.low_freq_factor) {
      fail_at(node, reader.key_path("high_freq_factor"), "must exceed low_freq_factor");
    }
  }
  if (s.kind == RopeScalingKind::kYarn) {
    s.beta_fast = reader.number_or("beta_fast", s.beta_fast, 1e-3, 1e6);
    s.beta_slow = reader.number_or("beta_slow", s.beta_slow, 1e-3, 1e6);
    if (s.beta_fast <= s.beta_slow) {
      fail_at(node, reader.key_path("beta_fast"), "must exceed beta_slow");
    }
  }
  reader.finish();
  return s;
}

void check_attention(const Node& node, const NodeReader& reader, const std::string& path,
                     const AttentionSpec& a) {
  if (a.heads % a.kv_heads != 0) {
    fail_at(node, reader.key_path("kv_heads"),
            fmt::format("{} does not divide heads = {}", a.kv_heads, a.heads));
  }
  if (a.rope.dim % 2 != 0) {
    fail_at(
        node, reader.key_path("rope_dim"),
        fmt::format("{} is odd, but RoPE turns pairs (head_dim is {})", a.rope.dim, a.head_dim));
  }
  const std::string problem = attention_kind(a.kind).problem(a);
  if (!problem.empty()) fail_at(node, path, problem);
}

}  // namespace

NormSpec read_norm(const Node& node, const std::string& path, const NormSpec& base) {
  NodeReader reader(node, path);
  NormSpec norm = base;
  norm.kind = choice(reader, "kind", base.kind, kNormNames);
  norm.eps = reader.number_or("eps", norm.eps, 1e-12, 1.0);
  norm.bias = reader.boolean_or("bias", norm.kind == NormKind::kLayerNorm);
  if (norm.bias && norm.kind == NormKind::kRmsNorm) {
    fail_at(node, reader.key_path("bias"), "RMSNorm has a gain only");
  }
  reader.finish();
  return norm;
}

AttentionSpec read_attention(const Node& node, const std::string& path, const AttentionSpec* base) {
  NodeReader reader(node, path);
  AttentionSpec a = base != nullptr ? *base : AttentionSpec{};
  const AttentionKind kind = choice(reader, "kind", a.kind, attention_kind_names());
  // Another kind has other sizes: nothing is inherited but what both have.
  const bool own = base == nullptr || kind != a.kind;
  a.kind = kind;
  a.heads = base == nullptr ? reader.integer("heads", 1, 4096)
                            : reader.integer_or("heads", a.heads, 1, 4096);
  a.head_dim = base == nullptr ? reader.integer("head_dim", 1, kMaxHeadDim)
                               : reader.integer_or("head_dim", a.head_dim, 1, kMaxHeadDim);
  attention_kind(kind).read(reader, node, a, own ? nullptr : base);
  a.rope.theta = reader.number_or("rope_theta", a.rope.theta, 1.0, 1e12);
  if (const Node* scaling = reader.optional("rope_scaling")) {
    a.rope.scaling = read_scaling(*scaling, reader.key_path("rope_scaling"));
  }
  a.window = reader.integer_or("window", a.window, 0, kMaxContext);
  a.qk_norm = reader.boolean_or("qk_norm", a.qk_norm);
  a.sinks = reader.boolean_or("sinks", a.sinks);
  a.bias = choice(reader, "bias", a.bias, kBiasNames);
  a.separate_kv_norm = reader.choice_or("kv_norm", a.separate_kv_norm, kKvNormNames) == 1;
  check_attention(node, reader, path, a);
  reader.finish();
  return a;
}

FfnSpec read_ffn(const Node& node, const std::string& path, const FfnSpec* base) {
  NodeReader reader(node, path);
  FfnSpec ffn = base != nullptr ? *base : FfnSpec{};
  ffn.kind = choice(reader, "kind", ffn.kind, kFfnNames);
  ffn.d_ff = base == nullptr ? reader.integer("d_ff", 1, kMaxDim)
                             : reader.integer_or("d_ff", ffn.d_ff, 1, kMaxDim);
  ffn.bias = reader.boolean_or("bias", ffn.bias);
  reader.finish();
  return ffn;
}

ResidualKind read_residual(NodeReader& reader, ResidualKind value) {
  return choice(reader, "residual", value, kResidualNames);
}

LayerSpec read_layer(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  LayerSpec layer;
  layer.norm = read_norm(reader.required("norm"), reader.key_path("norm"), {});
  layer.attention =
      read_attention(reader.required("attention"), reader.key_path("attention"), nullptr);
  layer.ffn = read_ffn(reader.required("ffn"), reader.key_path("ffn"), nullptr);
  layer.residual = read_residual(reader, layer.residual);
  layer.kv_owner = reader.integer("kv_owner", 0, 1023);
  reader.finish();
  return layer;
}

Node to_node(const NormSpec& norm) {
  return Node::Map{
      {"kind", name_of(norm.kind, kNormNames)}, {"eps", norm.eps}, {"bias", norm.bias}};
}

namespace {

Node scaling_node(const RopeScaling& s) {
  Node node = Node::Map{{"kind", name_of(s.kind, kScalingNames)}, {"factor", s.factor}};
  if (s.kind != RopeScalingKind::kLinear) node.set("original_context", s.original_context);
  if (s.kind == RopeScalingKind::kLlama3) {
    node.set("low_freq_factor", s.low_freq_factor);
    node.set("high_freq_factor", s.high_freq_factor);
  }
  if (s.kind == RopeScalingKind::kYarn) {
    node.set("beta_fast", s.beta_fast);
    node.set("beta_slow", s.beta_slow);
  }
  return node;
}

Node attention_node(const AttentionSpec& a) {
  Node node = Node::Map{{"kind", name_of(a.kind, attention_kind_names())},
                        {"heads", a.heads},
                        {"kv_heads", a.kv_heads},
                        {"head_dim", a.head_dim},
                        {"rope_dim", a.rope.dim},
                        {"rope_theta", a.rope.theta}};
  if (a.rope.scaling.kind != RopeScalingKind::kNone) {
    node.set("rope_scaling", scaling_node(a.rope.scaling));
  }
  node.set("window", a.window);
  node.set("qk_norm", a.qk_norm);
  node.set("sinks", a.sinks);
  node.set("bias", name_of(a.bias, kBiasNames));
  node.set("kv_norm", name_of(a.separate_kv_norm ? 1 : 0, kKvNormNames));
  attention_kind(a.kind).write(a, node);
  return node;
}

}  // namespace

Node to_node(const LayerSpec& layer) {
  return Node::Map{{"norm", to_node(layer.norm)},
                   {"attention", attention_node(layer.attention)},
                   {"ffn", Node::Map{{"kind", name_of(layer.ffn.kind, kFfnNames)},
                                     {"d_ff", layer.ffn.d_ff},
                                     {"bias", layer.ffn.bias}}},
                   {"residual", name_of(layer.residual, kResidualNames)},
                   {"kv_owner", layer.kv_owner}};
}

}  // namespace ashlar
