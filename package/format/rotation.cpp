#include "package/format/rotation.h"

#include <fmt/format.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

struct Flag {
  const char* name;
  bool StackRotation::*member;
};

constexpr Flag kFlags[] = {
    {"residual", &StackRotation::residual}, {"value", &StackRotation::value},
    {"heads", &StackRotation::heads},       {"keys", &StackRotation::keys},
    {"down", &StackRotation::down},         {"slots", &StackRotation::slots}};

}  // namespace

bool RotationManifest::any_online() const {
  for (const StackRotation& s : stacks) {
    if (s.heads || s.keys || s.down || s.slots) return true;
  }
  return false;
}

Node to_node(const RotationManifest& manifest) {
  Node list = Node::list();
  for (const StackRotation& stack : manifest.stacks) {
    Node names = Node::list();
    for (const Flag& flag : kFlags) {
      if (stack.*flag.member) names.push(flag.name);
    }
    list.push(
        Node::Map{{"rotations", std::move(names)}, {"seed", static_cast<int64_t>(stack.seed)}});
  }
  return Node::Map{{"stacks", std::move(list)}};
}

RotationManifest rotation_from_node(const Node& node, const ModelSpec& spec) {
  NodeReader reader(node, "rotation");
  RotationManifest manifest;
  for (const Node& entry : reader.required("stacks").as_list()) {
    NodeReader stack_reader(entry, "rotation.stacks");
    StackRotation stack;
    for (const Node& name : stack_reader.required("rotations").as_list()) {
      bool known = false;
      for (const Flag& flag : kFlags) {
        if (name.as_string() == flag.name) stack.*flag.member = known = true;
      }
      if (!known) {
        fail_at(name, "rotation", fmt::format("unknown rotation '{}'", name.as_string()));
      }
    }
    stack.seed = static_cast<uint64_t>(stack_reader.integer("seed", 0, INT64_MAX));
    stack_reader.finish();
    manifest.stacks.push_back(stack);
  }
  reader.finish();
  if (!manifest.stacks.empty() && manifest.stacks.size() != spec.stacks.size()) {
    fail_at(node, "rotation",
            fmt::format("{} entries for {} stacks", manifest.stacks.size(), spec.stacks.size()));
  }
  for (size_t s = 0; s < manifest.stacks.size(); ++s) {
    if (manifest.stacks[s].slots && spec.stacks[s].role != StackRole::kGlobal) {
      fail_at(node, "rotation", "'slots' belongs to the global stack of a Block Transformer");
    }
  }
  return manifest;
}

}  // namespace ashlar
