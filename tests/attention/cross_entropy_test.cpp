#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "attention/ops.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

std::vector<double> values(const at::Tensor& t) {
  const at::Tensor flat = t.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

struct Result {
  std::vector<double> loss, hidden, head;
};

Result run(const at::Tensor& h, const at::Tensor& w, const at::Tensor& targets,
           const at::Tensor& weights, bool ours) {
  const at::Tensor hidden = h.clone().set_requires_grad(true);
  const at::Tensor head = w.clone().set_requires_grad(true);
  const at::Tensor loss = ours ? linear_cross_entropy(hidden, head, targets, weights)
                               : -(at::log_softmax(at::matmul(hidden, head.t()), 1)
                                       .gather(1, targets.unsqueeze(1))
                                       .squeeze(1) *
                                   weights)
                                      .sum();
  torch::autograd::backward({loss});
  return {values(loss), values(hidden.grad()), values(head.grad())};
}

// Whether few, half or all targets count, loss and gradients are those of the definition.
TEST(LinearCrossEntropy, EqualsTheDefinitionWhateverCounts) {
  const int64_t rows = 40, width = 12, classes = 30;
  at::manual_seed(3);
  const at::Tensor hidden = at::randn({rows, width}, at::kDouble);
  const at::Tensor head = at::randn({classes, width}, at::kDouble);
  const at::Tensor targets = at::randint(classes, {rows}, at::kLong);
  for (int64_t every : {1, 2, 3, 13, 100}) {
    at::Tensor weights = at::zeros({rows}, at::kFloat);
    for (int64_t r = 0; r < rows; r += every) weights[r] = 0.25 + 0.5 * static_cast<double>(r % 2);
    const Result actual = run(hidden, head, targets, weights, true);
    const Result expected = run(hidden, head, targets, weights.to(at::kDouble), false);
    const test::Bound bound = test::reordered<double>(rows * classes + width, 40, 4);
    EXPECT_TRUE(test::within(actual.loss, expected.loss, bound));
    EXPECT_TRUE(test::within(actual.hidden, expected.hidden, bound));
    EXPECT_TRUE(test::within(actual.head, expected.head, bound));
  }
  const at::Tensor none = at::zeros({rows}, at::kFloat);
  EXPECT_EQ(run(hidden, head, targets, none, true).loss, std::vector<double>{0.0});
}

}  // namespace
}  // namespace ashlar
