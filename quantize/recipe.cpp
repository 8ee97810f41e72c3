#include "quantize/recipe.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "kernels/codec.h"

namespace ashlar {
namespace {

struct Kind {
  const char* name;
  bool RotationRequest::*member;
};

constexpr Kind kKinds[] = {{"residual", &RotationRequest::residual},
                           {"value", &RotationRequest::value},
                           {"heads", &RotationRequest::heads},
                           {"keys", &RotationRequest::keys},
                           {"down", &RotationRequest::down}};

RotationRequest read_rotation(const Node& node) {
  NodeReader reader(node, "rotation");
  RotationRequest request;
  const Node& kinds = reader.required("kinds");
  request.seed = static_cast<uint64_t>(reader.integer_or("seed", 1, 0, INT64_MAX));
  reader.finish();
  if (kinds.is_string()) {
    const std::string& word = kinds.as_string();
    if (word != "all" && word != "none") {
      fail_at(kinds, "rotation.kinds", fmt::format("'{}' is neither all, none nor a list", word));
    }
    for (const Kind& kind : kKinds) request.*kind.member = word == "all";
    return request;
  }
  for (const Node& entry : kinds.as_list()) {
    bool known = false;
    for (const Kind& kind : kKinds) {
      if (entry.as_string() == kind.name) request.*kind.member = known = true;
    }
    if (!known) {
      fail_at(
          entry, "rotation.kinds",
          fmt::format("'{}' is not one of residual, value, heads, keys, down", entry.as_string()));
    }
  }
  return request;
}

WeightRecipe read_weights(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  WeightRecipe recipe;
  recipe.bits = static_cast<int>(reader.integer("bits", 4, 16));
  if (recipe.bits != 4 && recipe.bits != 8 && recipe.bits != 16) {
    fail_at(reader.required("bits"), path + ".bits",
            fmt::format("{} is not one of 4, 8, 16", recipe.bits));
  }
  recipe.group = reader.integer_or("group", 0, 0, int64_t{1} << 20);
  recipe.clip =
      reader.choice_or("clip", 1, {"none", "search"}) == 0 ? ClipKind::kNone : ClipKind::kSearch;
  reader.finish();
  return recipe;
}

Node weights_node(const WeightRecipe& recipe) {
  return Node::Map{{"bits", recipe.bits},
                   {"group", recipe.group},
                   {"clip", recipe.clip == ClipKind::kNone ? "none" : "search"}};
}

}  // namespace

Recipe recipe_from_node(const Node& node) {
  NodeReader reader(node);
  Recipe recipe;
  if (const Node* rotation = reader.optional("rotation"))
    recipe.rotation = read_rotation(*rotation);
  recipe.weights = read_weights(reader.required("weights"), "weights");
  recipe.head = recipe.weights;
  if (recipe.head.bits == 4) recipe.head.bits = 8;
  if (const Node* head = reader.optional("head")) recipe.head = read_weights(*head, "head");
  recipe.embedding =
      reader.choice_or("embedding", 0, {"fp16", "fp32"}) == 0 ? DType::kF16 : DType::kF32;
  if (const Node* kv = reader.optional("kv")) {
    NodeReader codec(*kv, "kv");
    recipe.kv = {codec.text_or("key", "fp16"), codec.text_or("value", "fp16")};
    codec.finish();
    codec_from_name(recipe.kv.key);
    codec_from_name(recipe.kv.value);
  }
  reader.finish();
  return recipe;
}

Node to_node(const Recipe& recipe) {
  Node kinds = Node::list();
  for (const Kind& kind : kKinds) {
    if (recipe.rotation.*kind.member) kinds.push(kind.name);
  }
  return Node::Map{{"rotation", Node::Map{{"kinds", std::move(kinds)},
                                          {"seed", static_cast<int64_t>(recipe.rotation.seed)}}},
                   {"weights", weights_node(recipe.weights)},
                   {"head", weights_node(recipe.head)},
                   {"embedding", recipe.embedding == DType::kF16 ? "fp16" : "fp32"},
                   {"kv", Node::Map{{"key", recipe.kv.key}, {"value", recipe.kv.value}}}};
}

}  // namespace ashlar
