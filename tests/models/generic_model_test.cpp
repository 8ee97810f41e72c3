#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "attention/backend.h"
#include "core/config/config.h"
#include "models/model.h"
#include "tests/support/tolerance.h"

// For every configs/smoke/*.yaml: loss, losses and gradients by the operations that other devices
// than CPUs take, against the row kernels.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

std::vector<std::string> smoke_names() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator("configs/smoke")) {
    const std::string name = entry.path().stem().string();
    if (name != "common") out.push_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<double> values(const Tensor& t) {
  const Tensor flat = t.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

struct Outcome {
  double loss = 0;
  std::vector<double> losses;
  std::vector<std::vector<double>> gradients;
};

Outcome run(const Model& model, ParameterSet& set, at::ScalarType compute) {
  at::manual_seed(3);
  const int64_t vocabulary = model.spec().vocab_size;
  const Tensor tokens = at::randint(vocabulary, {2, 32}, at::kLong);
  const Tensor targets = at::randint(vocabulary, {2, 32}, at::kLong);
  const Tensor weights = at::rand({2, 32}, at::kFloat);
  ForwardOptions options{0, compute};
  options.z_loss = 0.01;
  Outcome out;
  {
    const at::NoGradGuard no_grad;
    out.losses = values(model.losses(set, tokens, targets, weights, options));
  }
  const Tensor loss = model.loss(set, tokens, targets, weights, options);
  out.loss = loss.item<double>();
  for (const Tensor& g :
       torch::autograd::grad({loss}, set.tensors, {}, std::nullopt, false, true)) {
    out.gradients.push_back(g.defined() ? values(g) : std::vector<double>());
  }
  return out;
}

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

// Largest relative L2 distance of losses and of each gradient; gradients that are nothing but
// rounding beside the whole gradient count relative to its thousandth.
double distance(const Outcome& a, const Outcome& b) {
  double worst = test::relative_l2(a.losses, b.losses), whole = 0;
  for (const auto& g : b.gradients) whole = std::hypot(whole, norm(g));
  for (size_t i = 0; i < b.gradients.size(); ++i) {
    EXPECT_EQ(a.gradients[i].size(), b.gradients[i].size());
    if (b.gradients[i].empty()) continue;
    const double own = norm(b.gradients[i]), least = 1e-3 * whole;
    std::vector<double> difference(b.gradients[i].size());
    for (size_t e = 0; e < difference.size(); ++e) {
      difference[e] = a.gradients[i][e] - b.gradients[i][e];
    }
    worst = std::max(worst, norm(difference) / std::max(own, least));
  }
  return worst;
}

class GenericModel : public ::testing::TestWithParam<std::string> {};

TEST_P(GenericModel, LossAndGradientsAreThoseOfTheRowKernels) {
  at::set_num_threads(1);
  const Node root = load_yaml("configs/smoke/" + GetParam() + ".yaml");
  const Model model(model_spec_from_config(*root.find("model")));
  // Roundings one behind another on the way through such a model: tens of operations a layer, sums
  // of at most a few dozen terms, four layers and back. In bf16 each activation is rounded, and an
  // error of one of them reaches all behind.
  constexpr double kChain = 4 * 2 * 40 * 32;
  const std::tuple<at::ScalarType, at::ScalarType, double> kinds[] = {
      {at::kDouble, at::kDouble, kChain * std::numeric_limits<double>::epsilon()},
      {at::kFloat, at::kFloat, kChain * std::numeric_limits<float>::epsilon()},
      {at::kFloat, at::kBFloat16, 16 * 0x1p-8}};
  for (const auto& [stored, compute, most] : kinds) {
    ParameterSet set = init_parameters(model.spec(), 5, stored, {.deviation = 0.1});
    set.require_grad(true);
    const Outcome rows = run(model, set, compute);
    const GenericOperations on;
    const Outcome generic = run(model, set, compute);
    EXPECT_LE(distance(generic, rows), most) << c10::toString(compute);
    EXPECT_LE(std::abs(generic.loss - rows.loss), most * rows.loss) << c10::toString(compute);
  }
}

INSTANTIATE_TEST_SUITE_P(Smoke, GenericModel, ::testing::ValuesIn(smoke_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace ashlar
