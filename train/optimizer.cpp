#include "train/optimizer.h"

#include <ATen/ATen.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

// AdamW with decoupled weight decay (arXiv 1711.05101, algorithm 2): one fused pass over memory.
class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, int64_t elements, int64_t decayed)
      : config_(config),
        decayed_(decayed),
        mean_(at::zeros({elements}, at::kFloat)),
        square_(at::zeros({elements}, at::kFloat)) {}

  void step(const at::Tensor& values, const at::Tensor& gradients, int64_t step,
            double lr) override {
    const int64_t elements = values.numel();
    update(values, gradients, 0, decayed_, step, lr, config_.weight_decay);
    update(values, gradients, decayed_, elements - decayed_, step, lr, 0.0);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override {
    return {{"exp_avg", mean_}, {"exp_avg_sq", square_}};
  }

 private:
  void update(const at::Tensor& values, const at::Tensor& gradients, int64_t first, int64_t count,
              int64_t step, double lr, double decay) {
    if (count == 0) return;
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, count); };
    // The kernel reads the count of this step from a tensor.
    const at::Tensor now = at::full({}, static_cast<double>(step), at::kFloat);
    at::_fused_adamw_({part(values)}, {part(gradients)}, {part(mean_)}, {part(square_)}, {}, {now},
                      lr, config_.beta1, config_.beta2, decay, config_.eps, false, false);
  }

  OptimizerConfig config_;
  int64_t decayed_;
  at::Tensor mean_;
  at::Tensor square_;
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, int64_t elements,
                                          int64_t decayed) {
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      return std::make_unique<AdamW>(config, elements, decayed);
  }
  fail(ErrorCode::kInternal, "optimizer kind {} is not registered", static_cast<int>(config.kind));
}

}  // namespace ashlar
