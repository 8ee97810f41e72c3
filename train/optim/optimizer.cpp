#include "train/optim/optimizer.h"

#include <ATen/ops/zeros.h>

#include "core/base/error.h"
#include "train/optim/rules.h"

namespace ashlar {
namespace {

// Several algorithms, each with parameters of its own.
class Several : public Optimizer {
 public:
  explicit Several(std::vector<std::unique_ptr<Optimizer>> parts) : parts_(std::move(parts)) {
    for (const auto& part : parts_) {
      state_.insert(state_.end(), part->state().begin(), part->state().end());
    }
  }
  void step(std::span<const UnitSlice> units, const OptimizerStep& now) override {
    for (const auto& part : parts_) part->step(units, now);
  }
  const std::vector<OptimizerState>& state() const override { return state_; }

 private:
  std::vector<std::unique_ptr<Optimizer>> parts_;
  std::vector<OptimizerState> state_;  // shares storage with the parts'
};

}  // namespace

std::vector<UpdatePiece> pieces_of(OptimizerKind kind, std::span<const ParameterPolicy> policies,
                                   std::span<const UnitSlice> units) {
  std::vector<UpdatePiece> out;
  for (size_t u = 0; u < units.size(); ++u) {
    for (const auto& piece : units[u].layout->pieces(units[u].range)) {
      if (policies[piece.parameter].kind == kind) out.push_back({u, piece});
    }
  }
  return out;
}

OptimizerState zero_state(const char* name, const UpdatePiece& piece,
                          std::span<const UnitSlice> units) {
  return {name, piece.piece.parameter, piece.piece.first,
          at::zeros({piece.piece.count}, units[piece.unit].values.options())};
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const std::vector<ParameterSpec>& specs,
                                          std::span<const UnitSlice> units) {
  const std::vector<ParameterPolicy> policies = parameter_policies(config, specs);
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      return make_adamw({config.lr, config.beta1, config.beta2, config.eps, config.weight_decay},
                        policies, units);
    case OptimizerKind::kLion:
      return make_lion(config, policies, units);
    case OptimizerKind::kMuon: {
      std::vector<std::unique_ptr<Optimizer>> parts;
      parts.push_back(make_muon(config, policies, specs, units));
      parts.push_back(make_adamw(config.adamw, policies, units));
      return std::make_unique<Several>(std::move(parts));
    }
  }
  fail(ErrorCode::kInternal, "optimizer kind {} is not registered", static_cast<int>(config.kind));
}

}  // namespace ashlar
