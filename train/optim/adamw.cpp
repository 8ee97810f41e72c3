#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include "train/optim/rules.h"

namespace ashlar {
namespace {

// AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2), one pass over memory.
class AdamW : public Optimizer {
 public:
  AdamW(const AdamWOptions& options, std::vector<ParameterPolicy> policies,
        std::span<const UnitSlice> units)
      : options_(options),
        policies_(std::move(policies)),
        pieces_(pieces_of(OptimizerKind::kAdamW, policies_, units)) {
    for (const UpdatePiece& piece : pieces_) {
      for (const char* name : {"exp_avg", "exp_avg_sq"}) {
        state_.push_back(zero_state(name, piece, units));
      }
    }
  }

  void step(std::span<const UnitSlice> units, const OptimizerStep& now) override {
    // The kernel reads the count of this step from a tensor.
    at::Tensor count;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const UpdatePiece& p = pieces_[i];
      const UnitSlice& unit = units[p.unit];
      const ParameterPolicy& policy = policies_[p.piece.parameter];
      if (!count.defined()) {
        count = at::full({}, static_cast<double>(now.step), unit.values.options());
      }
      at::_fused_adamw_({p.of(unit.values)}, {p.of(unit.gradients)}, {state_[2 * i].values},
                        {state_[2 * i + 1].values}, {}, {count}, now.lr * policy.lr_scale,
                        options_.beta1, options_.beta2, policy.weight_decay, options_.eps, false,
                        false);
    }
  }

  const std::vector<OptimizerState>& state() const override { return state_; }

 private:
  AdamWOptions options_;
  std::vector<ParameterPolicy> policies_;
  std::vector<UpdatePiece> pieces_;
  std::vector<OptimizerState> state_;  // two of each piece
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                      std::vector<ParameterPolicy> policies,
                                      std::span<const UnitSlice> units) {
  return std::make_unique<AdamW>(options, std::move(policies), units);
}

}  // namespace ashlar
