#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "attention/backend.h"
#include "attention/ops.h"
#include "tests/support/tolerance.h"

// The fused GPU kernels against operations of ATen on the same GPU: values and gradients.

namespace ashlar {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

std::vector<double> values(const Tensor& t) {
  const Tensor flat = t.detach().to(at::kDouble).to(at::kCPU).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

class OnGpu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    const auto& hooks = at::detail::getCUDAHooks();
    if (!hooks.hasCUDA() || hooks.getNumGPUs() == 0) GTEST_SKIP() << "no GPU to be seen";
    at::manual_seed(5);
  }
  Tensor draw(std::vector<int64_t> shape, bool wide = false) const {
    return at::randn(shape, at::kDouble)
        .to(wide ? at::kFloat : GetParam())
        .to(at::kCUDA)
        .set_requires_grad(true);
  }
  template <typename Body>
  void compare(const Body& body, const Tensors& inputs, double terms, double norm) {
    const auto run = [&] {
      Tensors out = body(), along;
      const size_t outputs = out.size();
      at::manual_seed(9);
      for (const Tensor& t : out) along.push_back(at::randn(t.sizes(), t.options()));
      for (Tensor& g : torch::autograd::grad(out, inputs, along)) out.push_back(std::move(g));
      EXPECT_EQ(out.size(), outputs + inputs.size());
      return out;
    };
    const Tensors fused = run();
    const GenericOperations on;
    const Tensors generic = run();
    for (size_t i = 0; i < fused.size(); ++i) {
      const auto expected = values(generic[i]);
      double top = norm;
      for (const double x : expected) top = std::max(top, std::abs(x));
      test::Bound bound = test::reordered<float>(terms, top);
      if (GetParam() == at::kBFloat16) bound.absolute += top * 0x1p-7;  // two neighbours
      EXPECT_TRUE(test::within(values(fused[i]), expected, bound)) << "tensor " << i;
    }
  }
};

TEST_P(OnGpu, RmsNorm) {
  for (const int64_t width : {1, 100, 768, 3000}) {
    const Tensor x = draw({5, 31, width}), gain = draw({width}, true);
    compare(
        [&] {
          auto [y, skip] = rms_norm(x, gain, 1e-5);
          return Tensors{y, skip};
        },
        {x, gain}, static_cast<double>(width) + 155, 16);
  }
}

TEST_P(OnGpu, Rotate) {
  RopeSpec rope;
  rope.dim = 16;
  const RopeTable table = make_rope_table(33, rope, GetParam(), at::kCUDA);
  const Tensor x = draw({3, 33, 5, 24});
  compare([&] { return Tensors{rotate(x, table, 3)}; }, {x}, 4, 4);
}

TEST_P(OnGpu, SwiGlu) {
  const Tensor gate = draw({9, 333}), up = draw({9, 333});
  compare([&] { return Tensors{swiglu(gate, up)}; }, {gate, up}, 16, 4);
}

TEST_P(OnGpu, CrossEntropy) {
  const int64_t rows = 70, width = 32, classes = 5003;
  const Tensor hidden = draw({rows, width}), head = draw({classes, width});
  const Tensor targets = at::randint(classes, {rows}, at::kLong).to(at::kCUDA);
  const Tensor weights = at::rand({rows}, at::kFloat).to(at::kCUDA);
  for (const LossShape& shape : {LossShape{}, LossShape{5, 0.1}}) {
    compare([&] { return Tensors{linear_cross_entropy(hidden, head, targets, weights, shape)}; },
            {hidden, head}, static_cast<double>(rows + classes), 16);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, OnGpu, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace ashlar
