// Multi-head, grouped-query (arXiv 2305.13245) and multi-query attention (1911.02150).

#include <fmt/format.h>

#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

void read(NodeReader& reader, const Node&, AttentionSpec& a, const AttentionSpec* base) {
  a.kv_heads = reader.integer_or("kv_heads", base == nullptr ? a.heads : a.kv_heads, 1, kMaxHeads);
  // A whole head turns unless said otherwise; an override of head_dim carries that along.
  const bool whole = base == nullptr || base->rope.dim == base->head_dim;
  a.rope.dim = reader.integer_or("rope_dim", whole ? a.head_dim : a.rope.dim, 0, kMaxHeadDim);
  a.latent_dim = a.query_latent_dim = a.latent_value_dim = 0;
}

void write(const AttentionSpec&, Node&) {}

std::string problem(const AttentionSpec& a) {
  if (a.rope.dim > a.head_dim) {
    return fmt::format("rope_dim = {} exceeds head_dim = {}", a.rope.dim, a.head_dim);
  }
  return {};
}

void cache(const AttentionSpec& a, KvGroup& group) {
  group.kind = KvKind::kSelf;
  group.heads = a.kv_heads;
  group.key_dim = group.value_dim = a.head_dim;
}

void parameters(const LayerSpec& layer, int64_t d, bool owner, const EmitParameter& emit) {
  const AttentionSpec& a = layer.attention;
  const auto linear = [&](Role weight, Role bias, int64_t out) {
    emit(weight, {out, d});
    if (a.bias != BiasKind::kNone) emit(bias, {out});
  };
  linear(Role::kQuery, Role::kQueryBias, a.heads * a.head_dim);
  if (owner) {
    if (a.separate_kv_norm) {
      emit(Role::kKvNorm, {d});
      if (layer.norm.bias) emit(Role::kKvNormBias, {d});
    }
    linear(Role::kKey, Role::kKeyBias, a.kv_heads * a.head_dim);
    linear(Role::kValue, Role::kValueBias, a.kv_heads * a.head_dim);
  }
  if (a.qk_norm) {
    emit(Role::kQueryNorm, {a.head_dim});
    if (owner) emit(Role::kKeyNorm, {a.head_dim});
  }
}

int64_t decode_width(const AttentionSpec& a) { return 2 * a.head_dim; }

int64_t saved_elements(const AttentionSpec& a, bool owner) {
  const int64_t query = a.heads * a.head_dim, key = owner ? a.kv_heads * a.head_dim : 0;
  return (a.qk_norm ? 2 : 1) * (query + key) + key + query;
}

}  // namespace

const AttentionKindInfo kGroupedAttention = {"gqa", read,       write,        problem,
                                             cache, parameters, decode_width, saved_elements};

}  // namespace ashlar
