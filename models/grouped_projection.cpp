#include "models/projection.h"

// MHA, GQA and MQA, with K/V of the layer's own or shared (arXiv 2405.12981 §2).

namespace ashlar {
namespace {

using at::Tensor;
using Role = ParameterRole;

Tensor normed_heads(const ProjectionInput& in, const Tensor& x, int64_t heads, Role gain) {
  const Tensor x_BTHE = split_heads(x, heads);
  return in.w.has(gain) ? rms_norm(x_BTHE, in.w[gain], in.plan.spec.norm.eps).first : x_BTHE;
}

struct Projected {
  Tensor q, k, v;  // k, v of owners only
};

// As few products over the input as biases and norms allow.
Projected project(const ProjectionInput& in) {
  const StageWeights& w = in.w;
  if (!in.plan.owner) return {apply_linear(w, in.h, Role::kQuery, Role::kQueryBias), {}, {}};
  if (!w.has(Role::kQueryBias) && !w.has(Role::kKvNorm)) {
    const auto qkv = linear_many(in.h, w.as(Role::kQuery, in.h), w.as(Role::kKey, in.h),
                                 w.as(Role::kValue, in.h));
    return {qkv[0], qkv[1], qkv[2]};
  }
  const Tensor source = kv_input(in);
  const Tensor q = apply_linear(w, in.h, Role::kQuery, Role::kQueryBias);
  if (w.has(Role::kKeyBias)) {
    return {q, apply_linear(w, source, Role::kKey, Role::kKeyBias),
            apply_linear(w, source, Role::kValue, Role::kValueBias)};
  }
  const auto kv = linear_many(source, w.as(Role::kKey, in.h), w.as(Role::kValue, in.h));
  return {q, kv[0], kv[1]};
}

}  // namespace

Tensor project_grouped(const ProjectionInput& in) {
  const AttentionSpec& a = in.plan.spec.attention;
  const Projected p = project(in);
  if (in.plan.owner) {
    const Tensor keys = normed_heads(in, p.k, a.kv_heads, Role::kKeyNorm);
    in.kv[in.plan.group] = {rotate(keys, in.rope), split_heads(p.v, a.kv_heads)};
  }
  return rotate(normed_heads(in, p.q, a.heads, Role::kQueryNorm), in.rope);
}

}  // namespace ashlar
