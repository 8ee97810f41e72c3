#include "attention/linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/base/rng.h"
#include "tests/support/tolerance.h"

// Values and gradients of the linear maps in fp32, where two libraries share the products, against
// the same maps in double, which are plain matrix products.

namespace ashlar {
namespace {

using at::Tensor;

std::vector<double> values(const Tensor& t) {
  const Tensor d = t.detach().to(at::kDouble).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

Tensor draw(std::vector<int64_t> shape, uint64_t seed) {
  Tensor out = at::empty(shape, at::kFloat);
  const Philox random(seed);
  for (int64_t i = 0; i < out.numel(); ++i) {
    out.data_ptr<float>()[i] = static_cast<float>(random.normal(static_cast<uint64_t>(i)));
  }
  return out;
}

struct Maps {
  int64_t rows, in, first, second;
};

class LinearMaps : public ::testing::TestWithParam<Maps> {
 protected:
  // Outputs of all maps, then the gradients of Σ out·u for every input.
  std::vector<std::vector<double>> run(at::ScalarType type) const {
    const auto [rows, in, first, second] = GetParam();
    const auto leaf = [&](std::vector<int64_t> shape, uint64_t seed) {
      return draw(std::move(shape), seed).to(type).set_requires_grad(true);
    };
    // x is a transposed view: nothing may lean on contiguous rows.
    const Tensor base = leaf({in, rows}, 1), w0 = leaf({first, in}, 2), w1 = leaf({second, in}, 3);
    const Tensor w2 = leaf({1, in}, 4), bias = leaf({first}, 5), residual = leaf({rows, first}, 6);
    const Tensor x = base.t();
    std::vector<Tensor> out = linear_many(x, w0, w1, w2);
    out.push_back(linear_map(x, w0, bias));
    out.push_back(linear_add(residual, x, w0));
    Tensor sum = at::zeros({}, at::TensorOptions(type));
    uint64_t seed = 7;
    for (const Tensor& y : out) sum = sum + (y * draw(y.sizes().vec(), seed++).to(type)).sum();
    sum = sum + out[1].sum();  // a gradient whose strides are zero
    for (const Tensor& g : torch::autograd::grad({sum}, {base, w0, w1, w2, bias, residual})) {
      out.push_back(g);
    }
    std::vector<std::vector<double>> all;
    for (const Tensor& y : out) all.push_back(values(y));
    return all;
  }
};

TEST_P(LinearMaps, Fp32EqualsDouble) {
  const auto actual = run(at::kFloat), expected = run(at::kDouble);
  const Maps m = GetParam();
  const double terms = static_cast<double>(3 * std::max({m.rows, m.in, m.first + m.second + 1}));
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    // |N(0,1)|² products stay below 25.
    const auto bound = test::reordered<float>(terms, 25 * std::sqrt(terms));
    EXPECT_TRUE(test::within(actual[i], expected[i], bound)) << "result " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, LinearMaps,
                         ::testing::Values(Maps{1, 1, 1, 1}, Maps{1, 16, 48, 16}, Maps{7, 33, 5, 3},
                                           Maps{64, 90, 128, 30}, Maps{130, 257, 96, 32}));

TEST(Linear, ProductsOfStridedOperands) {
  const Tensor a = draw({40, 24}, 1), b = draw({24, 56}, 2);
  const auto expected = values(at::mm(a.to(at::kDouble), b.to(at::kDouble)));
  const auto bound = test::reordered<float>(24, 24 * 25);
  EXPECT_TRUE(test::within(values(times(a, b)), expected, bound));
  EXPECT_TRUE(test::within(values(times(a, b.t().contiguous().t())), expected, bound));
  EXPECT_TRUE(test::within(values(times_transposed(a, b.t())), expected, bound));
  EXPECT_TRUE(test::within(values(times_transposed(a.t().contiguous().t(), b.t().contiguous())),
                           expected, bound));
}

}  // namespace
}  // namespace ashlar
