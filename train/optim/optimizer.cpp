#include "train/optim/optimizer.h"

#include <ATen/ATen.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;

// AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2), fused over memory.
class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, std::vector<ParameterPolicy> policies,
        std::span<const UnitSlice> units)
      : config_(config), policies_(std::move(policies)) {
    for (const UnitSlice& unit : units) {
      for (const auto& piece : unit.layout->pieces(unit.range)) {
        for (const char* name : {"exp_avg", "exp_avg_sq"}) {
          state_.push_back({name, piece.parameter, piece.first,
                            at::zeros({piece.count}, unit.values.options())});
        }
      }
    }
  }

  void step(std::span<const UnitSlice> units, const OptimizerStep& now) override {
    // The kernel reads the count of this step from a tensor.
    const Tensor count = at::full({}, static_cast<double>(now.step), at::kFloat);
    size_t next = 0;
    for (const UnitSlice& unit : units) {
      for (const auto& piece : unit.layout->pieces(unit.range)) {
        const ParameterPolicy& policy = policies_[piece.parameter];
        const auto part = [&](const Tensor& t) { return t.narrow(0, piece.at, piece.count); };
        at::_fused_adamw_({part(unit.values)}, {part(unit.gradients)}, {state_[next].values},
                          {state_[next + 1].values}, {}, {count}, now.lr * policy.lr_scale,
                          config_.beta1, config_.beta2, policy.weight_decay, config_.eps, false,
                          false);
        next += 2;
      }
    }
  }

  const std::vector<OptimizerState>& state() const override { return state_; }

 private:
  OptimizerConfig config_;
  std::vector<ParameterPolicy> policies_;
  std::vector<OptimizerState> state_;
};

}  // namespace

std::vector<ParameterPolicy> parameter_policies(const OptimizerConfig& config,
                                                const std::vector<ParameterSpec>& specs) {
  std::vector<ParameterPolicy> out;
  for (const ParameterSpec& p : specs) {
    out.push_back({config.kind, 1.0, p.is_matrix() ? config.weight_decay : 0.0});
  }
  return out;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const std::vector<ParameterSpec>& specs,
                                          std::span<const UnitSlice> units) {
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      return std::make_unique<AdamW>(config, parameter_policies(config, specs), units);
  }
  fail(ErrorCode::kInternal, "optimizer kind {} is not registered", static_cast<int>(config.kind));
}

}  // namespace ashlar
