#include "core/base/error.h"
#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

KvGroup self_group(const ModelSpec& spec, size_t s, size_t owner) {
  const StackSpec& stack = spec.stacks[s];
  const AttentionSpec& a = stack.layers[owner].attention;
  KvGroup group;
  group.stack = static_cast<int64_t>(s);
  group.owner = static_cast<int64_t>(owner);
  for (size_t r = owner; r < stack.layers.size(); ++r) {
    if (stack.layers[r].kv_owner == group.owner) group.readers.push_back(static_cast<int64_t>(r));
  }
  group.entry_tokens = stack.role == StackRole::kGlobal ? spec.block->length : 1;
  group.lifetime = stack.role == StackRole::kLocal ? KvLifetime::kBlock : KvLifetime::kSequence;
  group.rope_dim = a.rope.dim;
  group.rope_theta = a.rope.theta;
  group.window = a.window;
  attention_kind(a.kind).cache(a, group);
  return group;
}

KvGroup cross_group(const StackSpec& stack, size_t s, size_t layer) {
  const AttentionSpec& a = stack.layers[layer].attention;
  KvGroup group;
  group.stack = static_cast<int64_t>(s);
  group.owner = static_cast<int64_t>(layer);
  group.readers = {group.owner};
  group.kind = KvKind::kCross;
  group.lifetime = KvLifetime::kBlock;
  group.heads = a.kv_heads;
  group.key_dim = group.value_dim = a.head_dim;
  return group;
}

}  // namespace

std::vector<KvGroup> kv_groups(const ModelSpec& spec) {
  std::vector<KvGroup> groups, cross;
  for (size_t s = 0; s < spec.stacks.size(); ++s) {
    const StackSpec& stack = spec.stacks[s];
    if (stack.role == StackRole::kEncoder) continue;
    for (size_t l = 0; l < stack.layers.size(); ++l) {
      if (stack.layers[l].kv_owner == static_cast<int64_t>(l)) {
        groups.push_back(self_group(spec, s, l));
      }
      if (spec.has_cross_attention(stack)) cross.push_back(cross_group(stack, s, l));
    }
  }
  groups.insert(groups.end(), cross.begin(), cross.end());
  for (size_t i = 0; i < groups.size(); ++i) groups[i].id = static_cast<int64_t>(i);
  return groups;
}

std::vector<int64_t> group_of_layer(const ModelSpec& spec, int64_t stack, KvKind kind) {
  std::vector<int64_t> out(spec.stacks[static_cast<size_t>(stack)].layers.size(), -1);
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.stack != stack || (group.kind == KvKind::kCross) != (kind == KvKind::kCross))
      continue;
    for (int64_t layer : group.readers) out[static_cast<size_t>(layer)] = group.id;
  }
  return out;
}

const char* kv_kind_name(KvKind kind) {
  switch (kind) {
    case KvKind::kSelf:
      return "self";
    case KvKind::kCross:
      return "cross";
    case KvKind::kLatent:
      return "latent";
  }
  fail(ErrorCode::kInternal, "unknown kind of KV group {}", static_cast<int>(kind));
}

Node to_node(const ModelSpec& spec, const KvGroup& g) {
  Node readers = Node::list();
  for (int64_t r : g.readers) readers.push(r);
  return Node::Map{{"id", g.id},
                   {"stack", stack_name(spec.stacks[static_cast<size_t>(g.stack)].role)},
                   {"owner", g.owner},
                   {"readers", std::move(readers)},
                   {"kind", kv_kind_name(g.kind)},
                   {"entry_tokens", g.entry_tokens},
                   {"lifetime", g.lifetime == KvLifetime::kSequence ? "sequence" : "block"},
                   {"heads", g.heads},
                   {"key_dim", g.key_dim},
                   {"value_dim", g.value_dim},
                   {"value_in_key", g.value_in_key},
                   {"rope_dim", g.rope_dim},
                   {"window", g.window}};
}

}  // namespace ashlar
