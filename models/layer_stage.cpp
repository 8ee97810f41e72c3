// One layer of every kind. Cross-layer attention: arXiv 2405.12981 §2; latent attention: 2405.04434
// eqs. 9–19 (in the expanded form that training wants: every head gets keys and values of its own,
// made from the latent); parallel residuals: GPT-NeoX (2204.06745 §2.1).
//
// Shape suffixes as in attention/ops.h.

#include "models/layer_stage.h"

#include <ATen/ATen.h>

#include "attention/ops.h"

namespace ashlar {

using at::Tensor;
using Role = ParameterRole;

Tensor apply_linear(const StageWeights& w, const Tensor& x, Role weight, Role bias) {
  if (!w.has(bias)) return linear_many(x, w.as(weight, x))[0];
  return at::linear(x, w.as(weight, x), w.as(bias, x));
}

Tensor add_linear(const StageWeights& w, const Tensor& residual, const Tensor& x, Role weight,
                  Role bias) {
  const Tensor base = w.has(bias) ? residual + w.as(bias, x) : residual;
  return linear_add(base, x, w.as(weight, x));
}

std::pair<Tensor, Tensor> apply_norm(const StageWeights& w, const Tensor& x, const NormSpec& norm,
                                     Role gain, Role bias) {
  if (norm.kind == NormKind::kRmsNorm) return rms_norm(x, w[gain], norm.eps);
  return {layer_norm(x, w[gain], w.maybe(bias), norm.eps), x};
}

namespace {

// A layer's pass over one batch.
class Pass {
 public:
  Pass(const LayerPlan& plan, const StageWeights& w, const StageInput& input, StageState& state)
      : plan_(plan),
        a_(plan.spec.attention),
        w_(w),
        input_(input),
        state_(state),
        rope_(input.ropes->get(state.x.size(1), a_.rope, state.x.scalar_type())) {}

  void run() {
    switch (plan_.spec.residual) {
      case ResidualKind::kSequential:
        return sequential();
      case ResidualKind::kParallel:
        return parallel();
      case ResidualKind::kPost:
        return post();
    }
  }

 private:
  void sequential() {
    auto [h, x] = first_norm(state_.x);
    const Tensor mixed = attend(h, x);
    x = add_linear(w_, x, mixed, Role::kAttentionOut, Role::kAttentionOutBias);
    if (plan_.cross) x = add_cross(x, x);
    auto [f, skip] = second_norm(x);
    state_.x = add_ffn(skip, f);
  }

  void parallel() {
    auto [h, x] = first_norm(state_.x);
    auto [f, skip] = second_norm(x);
    const Tensor mixed = attend(h, skip);
    x = add_linear(w_, skip, mixed, Role::kAttentionOut, Role::kAttentionOutBias);
    if (plan_.cross) x = add_cross(x, skip);
    state_.x = add_ffn(x, f);
  }

  void post() {
    Tensor x = state_.x;
    const Tensor mixed = attend(x, x);
    x = first_norm(add_linear(w_, x, mixed, Role::kAttentionOut, Role::kAttentionOutBias)).first;
    state_.x = second_norm(add_ffn(x, x)).first;
  }

  std::pair<Tensor, Tensor> first_norm(const Tensor& x) const {
    return apply_norm(w_, x, plan_.spec.norm, Role::kAttentionNorm, Role::kAttentionNormBias);
  }
  std::pair<Tensor, Tensor> second_norm(const Tensor& x) const {
    return apply_norm(w_, x, plan_.spec.norm, Role::kFfnNorm, Role::kFfnNormBias);
  }

  Tensor heads(const Tensor& t, int64_t count) const {
    return t.view({t.size(0), t.size(1), count, -1});
  }
  Tensor normed_heads(const Tensor& x_BTHE, Role gain) const {
    return w_.has(gain) ? rms_norm(x_BTHE, w_[gain], plan_.spec.norm.eps).first : x_BTHE;
  }

  // Heads side by side, before the output projection. `h` is the normalised stream `x`, which is
  // replaced by its continuation.
  Tensor attend(const Tensor& h, Tensor& x) {
    const Tensor q = a_.latent() ? latent_query_and_kv(h, x) : query_and_kv(h, x);
    const KvPair& shared = state_.kv.at(plan_.group);
    Tensor mixed;
    if (plan_.role == StackRole::kEncoder) {
      mixed = full_attention(q, shared.k, shared.v);
    } else {
      AttentionMask mask;
      mask.window = a_.window;
      if (plan_.role != StackRole::kLocal) mask.begin_BT = input_.begin;
      if (a_.sinks) mask.sinks_H = w_[Role::kSinks];
      mixed = causal_attention(q, shared.k, shared.v, mask);
    }
    if (plan_.last_reader) state_.kv.erase(plan_.group);
    return mixed.reshape({h.size(0), h.size(1), a_.heads * a_.value_dim()});
  }

  // What K/V are projected from: the query's input, or the stream through a norm of its own.
  Tensor kv_input(const Tensor& h, Tensor& x) const {
    if (!w_.has(Role::kKvNorm)) return h;
    auto [own, skip] = apply_norm(w_, x, plan_.spec.norm, Role::kKvNorm, Role::kKvNormBias);
    x = skip;
    return own;
  }

  Tensor query_and_kv(const Tensor& h, Tensor& x) {
    Tensor q, k, v;
    if (!plan_.owner) {
      q = apply_linear(w_, h, Role::kQuery, Role::kQueryBias);
    } else if (w_.has(Role::kQueryBias)) {
      const Tensor source = kv_input(h, x);
      q = apply_linear(w_, h, Role::kQuery, Role::kQueryBias);
      k = apply_linear(w_, source, Role::kKey, Role::kKeyBias);
      v = apply_linear(w_, source, Role::kValue, Role::kValueBias);
    } else if (w_.has(Role::kKvNorm)) {
      const Tensor source = kv_input(h, x);
      q = apply_linear(w_, h, Role::kQuery, Role::kQueryBias);
      const auto kv = linear_many(source, w_.as(Role::kKey, h), w_.as(Role::kValue, h));
      k = kv[0], v = kv[1];
    } else {
      const auto qkv =
          linear_many(h, w_.as(Role::kQuery, h), w_.as(Role::kKey, h), w_.as(Role::kValue, h));
      q = qkv[0], k = qkv[1], v = qkv[2];
    }
    if (plan_.owner) {
      const Tensor keys = normed_heads(heads(k, a_.kv_heads), Role::kKeyNorm);
      state_.kv[plan_.group] = {rotate(keys, rope_), heads(v, a_.kv_heads)};
    }
    return rotate(normed_heads(heads(q, a_.heads), Role::kQueryNorm), rope_);
  }

  Tensor latent_query_and_kv(const Tensor& h, Tensor& x) {
    const double eps = plan_.spec.norm.eps;
    if (plan_.owner) {
      const Tensor down = linear_many(kv_input(h, x), w_.as(Role::kLatent, h))[0];
      const Tensor latent =
          rms_norm(down.narrow(2, 0, a_.latent_dim), w_[Role::kLatentNorm], eps).first;
      const auto up = linear_many(latent, w_.as(Role::kKeyUp, h), w_.as(Role::kValueUp, h));
      const Tensor turned =
          rotate(heads(down.narrow(2, a_.latent_dim, a_.rope.dim).contiguous(), 1), rope_)
              .expand({-1, -1, a_.heads, -1});
      state_.kv[plan_.group] = {at::cat({heads(up[0], a_.heads), turned}, 3),
                                heads(up[1], a_.heads)};
    }
    Tensor source = h;
    if (w_.has(Role::kQueryDown)) {
      const Tensor down = linear_many(h, w_.as(Role::kQueryDown, h))[0];
      source = rms_norm(down, w_[Role::kQueryDownNorm], eps).first;
    }
    const Tensor q = linear_many(source, w_.as(Role::kQuery, h))[0];
    return rotate(heads(q, a_.heads), rope_, a_.rope_offset());
  }

  // x + cross-attention of norm(`source`) over the block's context rows.
  Tensor add_cross(const Tensor& x, const Tensor& source) {
    const Tensor& context = state_.context;
    const Tensor h =
        apply_norm(w_, source, plan_.spec.norm, Role::kCrossNorm, Role::kCrossNormBias).first;
    const Tensor q = apply_linear(w_, h, Role::kCrossQuery, Role::kCrossQueryBias);
    const Tensor k = apply_linear(w_, context, Role::kCrossKey, Role::kCrossKeyBias);
    const Tensor v = apply_linear(w_, context, Role::kCrossValue, Role::kCrossValueBias);
    const Tensor mixed =
        full_attention(heads(q, a_.heads), heads(k, a_.kv_heads), heads(v, a_.kv_heads))
            .reshape(q.sizes());
    return add_linear(w_, x, mixed, Role::kCrossOut, Role::kCrossOutBias);
  }

  Tensor add_ffn(const Tensor& residual, const Tensor& h) {
    return add_linear(w_, residual, ffn_inner(h), Role::kDown, Role::kDownBias);
  }

  Tensor ffn_inner(const Tensor& h) {
    switch (plan_.spec.ffn.kind) {
      case FfnKind::kSwiGlu: {
        if (w_.has(Role::kUpBias)) {
          return swiglu(apply_linear(w_, h, Role::kGate, Role::kGateBias),
                        apply_linear(w_, h, Role::kUp, Role::kUpBias));
        }
        const auto pair = linear_many(h, w_.as(Role::kGate, h), w_.as(Role::kUp, h));
        return swiglu(pair[0], pair[1]);
      }
      case FfnKind::kGelu:
        return at::gelu(apply_linear(w_, h, Role::kUp, Role::kUpBias));
      case FfnKind::kRelu2:
        return at::relu(apply_linear(w_, h, Role::kUp, Role::kUpBias)).square();
    }
    return {};
  }

  const LayerPlan& plan_;
  const AttentionSpec& a_;
  const StageWeights& w_;
  const StageInput& input_;
  StageState& state_;
  const RopeTable& rope_;
};

}  // namespace

StageState run_layer(const LayerPlan& plan, std::span<const Tensor> parameters,
                     const StageInput& input, StageState state) {
  const StageWeights weights(plan.roles, parameters);
  Pass(plan, weights, input, state).run();
  return state;
}

}  // namespace ashlar
