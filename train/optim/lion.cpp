#include <ATen/ops/mul.h>

#include "train/optim/rules.h"

namespace ashlar {
namespace {

using at::Tensor;

// Lion (arXiv 2302.06675, algorithm 2): c = β₁m + (1 − β₁)g, θ ← θ − η(sign c + λθ),
// m ← β₂m + (1 − β₂)g.
class Lion : public Optimizer {
 public:
  Lion(const OptimizerConfig& config, std::vector<ParameterPolicy> policies,
       std::span<const UnitSlice> units)
      : beta1_(config.beta1),
        beta2_(config.beta2),
        policies_(std::move(policies)),
        pieces_(pieces_of(OptimizerKind::kLion, policies_, units)) {
    for (const UpdatePiece& piece : pieces_) {
      state_.push_back(zero_state("lion_momentum", piece, units));
    }
  }

  void step(std::span<const UnitSlice> units, const OptimizerStep& now) override {
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const UpdatePiece& p = pieces_[i];
      const ParameterPolicy& policy = policies_[p.piece.parameter];
      const Tensor gradient = p.of(units[p.unit].gradients);
      Tensor value = p.of(units[p.unit].values), momentum = state_[i].values;
      Tensor update = at::mul(momentum, beta1_).add_(at::mul(gradient, 1 - beta1_)).sign_();
      if (policy.weight_decay != 0) update.add_(at::mul(value, policy.weight_decay));
      value.sub_(update.mul_(now.lr * policy.lr_scale));
      momentum.mul_(beta2_).add_(at::mul(gradient, 1 - beta2_));
    }
  }

  const std::vector<OptimizerState>& state() const override { return state_; }

 private:
  double beta1_, beta2_;
  std::vector<ParameterPolicy> policies_;
  std::vector<UpdatePiece> pieces_;
  std::vector<OptimizerState> state_;  // one of each piece
};

}  // namespace

std::unique_ptr<Optimizer> make_lion(const OptimizerConfig& config,
                                     std::vector<ParameterPolicy> policies,
                                     std::span<const UnitSlice> units) {
  return std::make_unique<Lion>(config, std::move(policies), units);
}

}  // namespace ashlar
