#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

// In the order of AttentionKind.
const AttentionKindInfo* const kKinds[] = {&kGroupedAttention, &kLatentAttention};

}  // namespace

const AttentionKindInfo& attention_kind(AttentionKind kind) {
  return *kKinds[static_cast<size_t>(kind)];
}

const std::vector<std::string_view>& attention_kind_names() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> out;
    for (const AttentionKindInfo* kind : kKinds) out.push_back(kind->name);
    return out;
  }();
  return names;
}

}  // namespace ashlar
