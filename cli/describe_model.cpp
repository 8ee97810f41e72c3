#include <algorithm>

#include "cli/inspect.h"
#include "core/base/error.h"
#include "data/tokenizer/chat_template.h"
#include "engine/decode/budget.h"
#include "package/format/model_data.h"

// A model in one screen: architecture, weights by part and type, what the cache holds.

namespace ashlar::cli {
namespace {

const char* part_of(const ParameterSpec& p) {
  using Role = ParameterRole;
  switch (p.role) {
    case Role::kEmbedding:
    case Role::kBlockEmbedding:
      return "token table";
    case Role::kHead:
      return "head";
    case Role::kGate:
    case Role::kUp:
    case Role::kDown:
      return "ffn";
    default:
      break;
  }
  if (!p.is_matrix()) return "norms and biases";
  return p.layer >= 0 ? "attention" : "embedder and context";
}

// Rows {part, type, tensors, bytes} in the order of the parameters.
Node weights_by_part(const ModelData& model) {
  struct Row {
    std::string part, type;
    int64_t tensors = 0, bytes = 0;
  };
  std::vector<Row> rows;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const TensorSource& t = model.tensors.at(p.name);
    const std::string part = part_of(p), type = t.encoding().description();
    auto row =
        std::ranges::find_if(rows, [&](const Row& r) { return r.part == part && r.type == type; });
    if (row == rows.end()) row = rows.insert(rows.end(), {part, type});
    ++row->tensors;
    row->bytes += t.stored_bytes();
  }
  Node out = Node::list();
  for (const Row& r : rows) {
    out.push(
        Node::Map{{"part", r.part}, {"type", r.type}, {"tensors", r.tensors}, {"bytes", r.bytes}});
  }
  return out;
}

Node stacks_of(const ModelSpec& spec) {
  Node stacks = Node::list();
  for (const StackSpec& s : spec.stacks) {
    const AttentionSpec& a = s.layers[0].attention;
    const Node layer = to_node(s.layers[0]);
    const auto kind = [&layer](const char* part) { return *layer.find(part)->find("kind"); };
    stacks.push(Node::Map{{"name", stack_name(s.role)},
                          {"layers", static_cast<int64_t>(s.layers.size())},
                          {"d_model", s.d_model},
                          {"heads", a.heads},
                          {"kv_heads", a.kv_heads},
                          {"head_dim", a.head_dim},
                          {"d_ff", s.layers[0].ffn.d_ff},
                          {"norm", kind("norm")},
                          {"attention", kind("attention")},
                          {"ffn", kind("ffn")},
                          {"rope_theta", a.rope.theta}});
  }
  return stacks;
}

// The name of the template's format; "unknown" for one that `chat` would refuse.
std::string chat_of(const ModelData& model) {
  if (model.chat_template.empty()) return "none";
  try {
    return recognise_chat_format(model.chat_template, ChatContext{}, "chat template")->name();
  } catch (const Error&) {
    return "unknown";
  }
}

}  // namespace

Node describe_model(const ModelData& model, const std::string& kind) {
  const ModelSpec& spec = model.spec;
  const CacheOptions cache = cache_options("", model.kv_codec.key, model.kv_codec.value);
  Node out = Node::Map{{"kind", kind}, {"valid", true}};
  if (!model.name.empty()) out.set("name", model.name);
  out.set("architecture", spec.kind == ModelKind::kDecoder ? "decoder" : "block_transformer");
  out.set("parameters_total", parameter_count(spec));
  out.set("parameters_body", body_parameter_count(spec));
  out.set("vocab_size", spec.vocab_size);
  out.set("context_length", spec.context_length);
  out.set("tied_head", spec.tied_head);
  out.set("weight_bytes", model.weight_bytes());
  out.set("kv_codec", model.kv_codec.key + ":" + model.kv_codec.value);
  out.set("kv_bytes_per_token", cache_bytes_per_token(spec, cache));
  out.set("multi_head_kv_bytes_per_token", multi_head_kv_bytes_per_token(spec, 2));
  out.set("quantized",
          std::ranges::any_of(model.tensors, [](const auto& t) { return t.second.quantized(); }));
  out.set("rotated", !model.rotation.stacks.empty());
  out.set("has_tokenizer", !model.tokenizer_json.empty());
  out.set("chat_template", chat_of(model));
  if (model.start_token) out.set("start_token", *model.start_token);
  Node stops = Node::list();
  for (int64_t token : model.stop_tokens) stops.push(token);
  out.set("stop_tokens", std::move(stops));
  out.set("stacks", stacks_of(spec));
  if (spec.block) out.set("block", *to_node(spec).find("block"));
  out.set("weights", weights_by_part(model));
  Node groups = Node::list();
  for (const KvGroup& g : kv_groups(spec)) groups.push(to_node(spec, g));
  out.set("kv_groups", std::move(groups));
  out.set("weights_sha256", weights_sha256(model));
  return out;
}

}  // namespace ashlar::cli
