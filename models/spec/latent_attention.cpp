// Multi-head latent attention (arXiv 2405.04434 §2.1): keys and values of all heads are made from
// one latent vector per position, which is what the cache holds, beside one rotated key for all
// heads.

#include "models/spec/attention_kind.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

void read(NodeReader& reader, const Node& node, AttentionSpec& a, const AttentionSpec* base) {
  const auto size = [&](std::string_view key, int64_t value, int64_t low, int64_t high) {
    return base == nullptr ? reader.integer(key, low, high)
                           : reader.integer_or(key, value, low, high);
  };
  a.latent_dim = size("latent_dim", a.latent_dim, 1, kMaxDim);
  a.rope.dim = size("rope_dim", a.rope.dim, 0, kMaxHeadDim);
  a.latent_value_dim = reader.integer_or(
      "value_dim", base == nullptr ? a.head_dim : a.latent_value_dim, 1, kMaxHeadDim);
  a.query_latent_dim = reader.integer_or("query_latent_dim", a.query_latent_dim, 0, kMaxDim);
  a.kv_heads = a.heads;
  if (reader.has("kv_heads") && reader.integer("kv_heads", 1, kMaxHeads) != a.heads) {
    fail_at(node, reader.key_path("kv_heads"),
            "latent attention makes keys and values for every head");
  }
}

void write(const AttentionSpec& a, Node& node) {
  node.set("latent_dim", a.latent_dim);
  node.set("query_latent_dim", a.query_latent_dim);
  node.set("value_dim", a.latent_value_dim);
}

std::string problem(const AttentionSpec& a) {
  if (a.latent_dim < 1 || a.latent_value_dim < 1 || a.kv_heads != a.heads) {
    return "impossible latent sizes";
  }
  if (a.qk_norm) return "latent attention normalises its latents; qk_norm does not apply";
  if (a.bias != BiasKind::kNone) return "latent attention has no biases";
  return {};
}

void cache(const AttentionSpec& a, KvGroup& group) {
  group.kind = KvKind::kLatent;
  group.heads = 1;
  group.key_dim = a.latent_dim + a.rope.dim;
  group.value_dim = a.latent_dim;
  group.value_in_key = true;
}

void parameters(const LayerSpec& layer, int64_t d, bool owner, const EmitParameter& emit) {
  const AttentionSpec& a = layer.attention;
  const int64_t rank = a.query_latent_dim;
  if (rank > 0) {
    emit(Role::kQueryDown, {rank, d});
    emit(Role::kQueryDownNorm, {rank});
  }
  emit(Role::kQuery, {a.heads * a.query_dim(), rank > 0 ? rank : d});
  if (!owner) return;
  if (a.separate_kv_norm) {
    emit(Role::kKvNorm, {d});
    if (layer.norm.bias) emit(Role::kKvNormBias, {d});
  }
  emit(Role::kLatent, {a.latent_dim + a.rope.dim, d});
  emit(Role::kLatentNorm, {a.latent_dim});
  emit(Role::kKeyUp, {a.heads * a.head_dim, a.latent_dim});
  emit(Role::kValueUp, {a.heads * a.latent_value_dim, a.latent_dim});
}

// The query meets the latent itself (absorbed), and so do the probabilities.
int64_t decode_width(const AttentionSpec& a) { return 2 * a.latent_dim + a.rope.dim; }

int64_t saved_elements(const AttentionSpec& a, bool owner) {
  const int64_t query = a.heads * a.query_dim(), out = a.heads * a.latent_value_dim;
  int64_t sum = query + out + 2 * a.query_latent_dim;
  if (owner) sum += 2 * a.latent_dim + a.rope.dim + query + out;
  return sum;
}

}  // namespace

const AttentionKindInfo kLatentAttention = {"mla", read,       write,        problem,
                                            cache, parameters, decode_width, saved_elements};

}  // namespace ashlar
