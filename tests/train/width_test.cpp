#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "core/base/rng.h"
#include "core/config/config.h"
#include "models/model.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"
#include "tests/train/run_fixture.h"
#include "train/config.h"
#include "train/optim/optimizer.h"

// Maximal update parametrization (arXiv 2203.03466).

namespace ashlar {
namespace {

constexpr int64_t kBase = 32, kVocabulary = 32;
constexpr uint64_t kSeed = 3;

TrainConfig config_of(int64_t width, bool mup, const std::string& optimizer) {
  const std::string model = fmt::format(
      "  kind: decoder\n  decoder: {{d_model: {0}, layers: 2, ffn: {{d_ff: {1}}},\n"
      "    attention: {{heads: {2}, head_dim: 16}}}}\n",
      width, 2 * width, width / 16);
  std::string yaml = test::train_yaml("data", "run", model);
  const auto replace = [&](const std::string& from, const std::string& to) {
    const size_t at = yaml.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    yaml.replace(at, yaml.find('\n', at) - at, to);
  };
  replace("optimizer:", "optimizer: " + optimizer);
  if (mup) {
    const size_t at = yaml.find("train: {seed");
    yaml.insert(at + 8, fmt::format("mup: {{base_width: {}}}, ", kBase));
  }
  return train_config_from(parse_yaml(yaml, "t.yaml"));
}

// Root mean square of what four steps on one batch change: the last hidden states, and the logits.
struct Change {
  double hidden = 0, logits = 0;
};
Change change_of(int64_t width, bool mup, const std::string& optimizer) {
  const TrainConfig config = config_of(width, mup, optimizer);
  const Model model(config.model);
  ParameterSet set = init_parameters(config.model, kSeed, at::kFloat, config.init);
  std::vector<std::pair<size_t, int64_t>> sizes;
  for (size_t i = 0; i < set.specs.size(); ++i) sizes.emplace_back(i, set.specs[i].numel());
  const UnitLayout layout = make_unit_layout("all", sizes, 1);
  const at::Tensor values = at::zeros({layout.size}), gradients = at::zeros({layout.size});
  for (size_t i = 0; i < set.specs.size(); ++i) {
    const auto part = [&](const at::Tensor& flat) {
      return flat.narrow(0, layout.parts[i].offset, layout.parts[i].numel).view(set.specs[i].shape);
    };
    part(values).copy_(set.tensors[i]);
    set.tensors[i] = part(values).detach().set_requires_grad(true);
    set.tensors[i].mutable_grad() = part(gradients);
  }
  const std::vector<UnitSlice> units = {{&layout, {0, layout.size}, values, gradients}};
  const auto optimizer_of = make_optimizer(config.optimizer, set.specs, units);
  const Philox random(kSeed);
  at::Tensor text = at::zeros({4, 25}, at::kLong);
  for (int64_t i = 0; i < text.numel(); ++i) {
    text.data_ptr<int64_t>()[i] =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(i), kVocabulary));
  }
  const at::Tensor tokens = text.narrow(1, 0, 24).contiguous();
  const at::Tensor targets = text.narrow(1, 1, 24).contiguous();
  const at::Tensor weights = at::full({4, 24}, 1.0 / 96);
  const ForwardOptions options;
  const auto look = [&] {
    const at::NoGradGuard no_grad;
    const at::Tensor hidden = model.hidden(set, tokens, options, Rows::kNext);
    return std::pair(hidden.clone(), model.logits(set, hidden, options).clone());
  };
  const auto before = look();
  for (int64_t step = 1; step <= 4; ++step) {
    gradients.zero_();
    torch::autograd::backward({model.loss(set, tokens, targets, weights, options)});
    const at::NoGradGuard no_grad;
    optimizer_of->step(units, {step, config.optimizer.lr, {}});
  }
  const auto after = look();
  const auto rms = [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).square().mean().sqrt().item<double>();
  };
  return {rms(after.first, before.first), rms(after.second, before.second)};
}

// The coordinate check: over eight times the width, what a few steps change stays, where plain
// training changes the logits the more the wider the network is. Statistical: one seed, 96 tokens;
// the bounds are factors of 1.6 with the parametrization and of 3 without it.
TEST(WidthScaling, WhatStepsChangeDoesNotGrowWithTheWidth) {
  for (const char* optimizer : {"{kind: adamw, lr: 1.0e-2, weight_decay: 0}",
                                "{kind: muon, lr: 1.0e-2, weight_decay: 0}"}) {
    const auto growth = [&](bool mup) {
      const Change narrow = change_of(kBase, mup, optimizer);
      const Change wide = change_of(8 * kBase, mup, optimizer);
      return Change{wide.hidden / narrow.hidden, wide.logits / narrow.logits};
    };
    const Change with = growth(true), without = growth(false);
    const test::Bound stays = test::statistical(1.6, kSeed, 96);
    const test::Bound grows = test::statistical(3.0, kSeed, 96);
    EXPECT_LT(with.logits, stays.absolute) << optimizer << ": " << stays.reason;
    EXPECT_LT(with.hidden, stays.absolute) << optimizer << ": " << stays.reason;
    EXPECT_GT(without.logits, grows.absolute) << optimizer << ": " << grows.reason;
  }
}

// At the base width nothing changes; wider, every matrix begins as the table of the paper says.
TEST(WidthScaling, InitialisationIsThePapersTable) {
  const auto set_of = [](int64_t width, bool mup) {
    const TrainConfig config = config_of(width, mup, "{lr: 0.1}");
    return init_parameters(config.model, kSeed, at::kDouble, config.init);
  };
  const ParameterSet base = set_of(kBase, false), same = set_of(kBase, true);
  for (size_t i = 0; i < base.specs.size(); ++i) {
    EXPECT_TRUE(at::equal(base.tensors[i], same.tensors[i])) << base.specs[i].name;
  }
  const ParameterSet plain = set_of(4 * kBase, false), scaled = set_of(4 * kBase, true);
  for (size_t i = 0; i < plain.specs.size(); ++i) {
    const ParameterSpec& p = plain.specs[i];
    const double divisor = p.role == ParameterRole::kHead ? 4 : p.is_linear() ? 2 : 1;
    const at::Tensor expected = plain.tensors[i] / divisor;
    const double most = expected.abs().max().item<double>();
    EXPECT_LE((scaled.tensors[i] - expected).abs().max().item<double>(),
              test::reordered<double>(2, most).absolute)
        << p.name;
  }
}

TEST(WidthScaling, IsKeptInTheResolvedConfigurationAndNeedsAHeadOfItsOwn) {
  const TrainConfig config = config_of(4 * kBase, true, "{lr: 0.1}");
  EXPECT_EQ(config.optimizer.width_ratios, std::vector<double>{4});
  const std::string model =
      "  kind: decoder\n  tied_head: true\n  decoder: {d_model: 32, layers: 1, ffn: {d_ff: 64},\n"
      "    attention: {heads: 2, head_dim: 16}}\n";
  std::string yaml = test::train_yaml("data", "run", model);
  yaml.insert(yaml.find("train: {seed") + 8, "mup: {base_width: 32}, ");
  test::expect_error(ErrorCode::kRequest, {"t.yaml:", "train.mup", "tied_head"},
                     [&] { train_config_from(parse_yaml(yaml, "t.yaml")); });
  yaml.replace(yaml.find("tied_head: true"), 15, "tied_head: false");
  const Node root = parse_yaml(yaml, "t.yaml");
  const Node resolved = resolved_config(root, train_config_from(root));
  EXPECT_EQ(train_config_from(resolved).init.base_width, 32);
}

}  // namespace
}  // namespace ashlar
