// One layer of every kind. Cross-layer attention: arXiv 2405.12981 §2; parallel residuals: GPT-NeoX
// (2204.06745 §2.1).
//
// Shape suffixes as in attention/ops.h.

#include "models/layer_stage.h"

#include <ATen/ATen.h>

#include "attention/linear.h"
#include "attention/ops.h"
#include "models/projection.h"

namespace ashlar {

using at::Tensor;
using Role = ParameterRole;

Tensor apply_linear(const StageWeights& w, const Tensor& x, Role weight, Role bias) {
  std::optional<Tensor> b;
  if (w.has(bias)) b = w.as(bias, x);
  return linear_map(x, w.as(weight, x), b);
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
        rope_(input.ropes->get(state.x.size(1), a_.rope, state.x.scalar_type(), state.x.device())) {
  }

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

  Tensor heads(const Tensor& t, int64_t count) const { return split_heads(t, count); }

  // Heads side by side, before the output projection. `h` is the normalised stream `x`, which is
  // replaced by its continuation.
  Tensor attend(const Tensor& h, Tensor& x) {
    const Tensor q = projection_of(a_.kind)({plan_, w_, rope_, h, x, state_.kv});
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
