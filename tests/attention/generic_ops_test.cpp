#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "attention/backend.h"
#include "attention/ops.h"
#include "attention/row_dispatch.h"
#include "tests/support/tolerance.h"

// The operations that devices other than CPUs take, run on the CPU, against the row kernels: values
// and gradients.

namespace ashlar {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

std::vector<double> values(const Tensor& t) {
  const Tensor flat = t.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

Tensor draw(std::vector<int64_t> shape, at::ScalarType type) {
  return at::randn(shape, at::kDouble).to(type).set_requires_grad(true);
}

struct Outcome {
  Tensors outputs, gradients;
};

// Outputs of `body` and their derivatives over `inputs` along random directions, seeded.
template <typename Body>
Outcome run(const Body& body, const Tensors& inputs) {
  Outcome out;
  out.outputs = body();
  at::manual_seed(9);
  Tensors along;
  for (const Tensor& t : out.outputs) along.push_back(at::randn(t.sizes(), t.options()));
  out.gradients = torch::autograd::grad(out.outputs, inputs, along);
  return out;
}

// Each result is rounded once to its own type; before that, `terms` roundings of a chain whose
// members are at most `norm` in the accumulate type; `extra`: what only the CPU's way rounds to
// bf16.
template <typename Body>
void compare(const std::string& what, const Body& body, const Tensors& inputs, double terms,
             double norm, double extra = 0) {
  const Outcome rows = run(body, inputs);
  const Outcome generic = [&] {
    const GenericOperations on;
    return run(body, inputs);
  }();
  const auto expect = [&](const Tensors& actual, const Tensors& expected, const char* part) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      const at::ScalarType type = expected[i].scalar_type();
      EXPECT_EQ(actual[i].scalar_type(), type);
      EXPECT_EQ(actual[i].sizes(), expected[i].sizes());
      const auto e = values(expected[i]);
      double top = norm;
      for (const double x : e) top = std::max(top, std::abs(x));
      test::Bound bound = inputs[0].scalar_type() == at::kDouble
                              ? test::reordered<double>(terms, top)
                              : test::reordered<float>(terms, top);
      if (type == at::kBFloat16) bound.absolute += top * 0x1p-7;  // two neighbours
      if (inputs[0].scalar_type() == at::kBFloat16) bound.absolute += extra;
      EXPECT_TRUE(test::within(values(actual[i]), e, bound)) << what << " " << part << " " << i;
    }
  };
  expect(generic.outputs, rows.outputs, "output");
  expect(generic.gradients, rows.gradients, "gradient");
}

class GenericOps : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  GenericOps() { at::manual_seed(5); }
  at::ScalarType type() const { return GetParam(); }
  at::ScalarType wide() const { return accumulate_type(GetParam()); }
};

TEST_P(GenericOps, RmsNorm) {
  for (const int64_t width : {1, 7, 64, 130}) {
    const Tensor x = draw({3, 5, width}, type()), gain = draw({width}, wide());
    compare(
        "rms_norm",
        [&] {
          auto [y, skip] = rms_norm(x, gain, 1e-5);
          return Tensors{y, skip};
        },
        {x, gain}, static_cast<double>(width) + 15, 16);
    // Without the skip connection's gradient.
    compare(
        "rms_norm alone", [&] { return Tensors{rms_norm(x, gain, 1e-5).first}; }, {x, gain},
        static_cast<double>(width) + 15, 16);
  }
}

TEST_P(GenericOps, LayerNorm) {
  const Tensor x = draw({3, 5, 24}, type()), gain = draw({24}, wide()), bias = draw({24}, wide());
  compare(
      "layer_norm", [&] { return Tensors{layer_norm(x, gain, bias, 1e-5)}; }, {x, gain, bias}, 64,
      16, 16 * 0x1p-8);
  compare(
      "layer_norm", [&] { return Tensors{layer_norm(x, gain, {}, 1e-5)}; }, {x, gain}, 64, 16,
      16 * 0x1p-8);
}

TEST_P(GenericOps, Rotate) {
  for (const auto& [dim, turned, offset] :
       {std::tuple<int64_t, int64_t, int64_t>{8, 8, 0}, {10, 4, 0}, {10, 4, 3}, {12, 6, 6}}) {
    RopeSpec rope;
    rope.dim = turned;
    const RopeTable table = make_rope_table(6, rope, type());
    const Tensor x = draw({2, 6, 3, dim}, type());
    compare(
        "rotate", [&] { return Tensors{rotate(x, table, offset)}; }, {x}, 4, 4);
  }
}

TEST_P(GenericOps, SwiGlu) {
  const Tensor gate = draw({4, 33}, type()), up = draw({4, 33}, type());
  compare(
      "swiglu", [&] { return Tensors{swiglu(gate, up)}; }, {gate, up}, 16, 4);
}

TEST_P(GenericOps, CrossEntropy) {
  const int64_t rows = 40, width = 12, classes = 30;
  const Tensor hidden = draw({rows, width}, type()), head = draw({classes, width}, type());
  const Tensor targets = at::randint(classes, {rows}, at::kLong);
  const Tensor weights = at::rand({rows}, at::kFloat);
  weights[3] = 0.0;
  for (const LossShape& shape : {LossShape{}, LossShape{5, 0}, LossShape{0, 0.1}, {5, 0.1}}) {
    // Chains over classes, then over rows (head) or classes (hidden) of products. With bf16 logits
    // their derivative is rounded before these.
    const double norm = type() == at::kBFloat16 ? 64 : 16;
    compare(
        "cross_entropy",
        [&] { return Tensors{linear_cross_entropy(hidden, head, targets, weights, shape)}; },
        {hidden, head}, static_cast<double>(rows + classes + width), norm,
        shape.softcap > 0 ? norm * 0x1p-7 : 0);
    const auto losses = [&] {
      return values(linear_losses(hidden, head, targets, weights, shape.softcap));
    };
    const auto expected = losses();
    const GenericOperations on;
    const test::Bound bound = type() == at::kDouble ? test::reordered<double>(classes + 10, 16)
                                                    : test::reordered<float>(classes + 10, 16);
    // The row kernels round capped logits to bf16 once more.
    const double rounding = type() == at::kBFloat16 && shape.softcap > 0 ? 8 * 0x1p-8 : 0;
    EXPECT_TRUE(test::within(losses(), expected, {bound.absolute + rounding, bound.reason}));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GenericOps,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace ashlar
