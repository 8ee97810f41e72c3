#include "models/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/base/rng.h"
#include "tests/models/model_cases.h"
#include "tests/reference/reference_model.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

constexpr int64_t kEos = 3;

// Weights large enough that every path matters, gains far from 1.
ParameterSet random_parameters(const ModelSpec& spec, uint64_t seed, at::ScalarType type) {
  ParameterSet set = init_parameters(spec, seed, at::kDouble);
  for (size_t i = 0; i < set.specs.size(); ++i) {
    const Philox random(seed + 1, i);
    double* value = set.tensors[i].data_ptr<double>();
    const double fan = set.specs[i].is_matrix() ? static_cast<double>(set.specs[i].shape[1]) : 1.0;
    for (int64_t e = 0; e < set.specs[i].numel(); ++e) {
      const double draw = random.normal(static_cast<uint64_t>(e));
      value[e] = set.specs[i].is_norm() ? 0.5 + std::abs(draw) : draw / std::sqrt(fan);
    }
    set.tensors[i] = set.tensors[i].to(type);
  }
  return set;
}

reference::Weights weights_of(const ParameterSet& set) {
  reference::Weights out;
  for (size_t i = 0; i < set.specs.size(); ++i) {
    const at::Tensor t = set.tensors[i].detach().to(at::kDouble).contiguous();
    out[set.specs[i].name].assign(t.data_ptr<double>(), t.data_ptr<double>() + t.numel());
  }
  return out;
}

std::vector<int64_t> random_tokens(int64_t count, uint64_t seed, int64_t vocabulary = 29) {
  std::vector<int64_t> out;
  const Philox random(seed);
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(static_cast<int64_t>(
        random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(vocabulary))));
  }
  return out;
}

at::Tensor tensor_of(const std::vector<int64_t>& tokens) {
  return at::tensor(tokens, at::kLong).view({1, -1});
}

std::vector<double> values(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(at::kDouble).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

// Longest chain of roundings from a token to a logit: every sum on the way, layer after layer.
template <typename Real>
test::Bound logit_bound(const ModelSpec& spec, int64_t length, const std::vector<double>& logits) {
  double terms = 0, top = 1;
  for (const StackSpec& stack : spec.stacks) {
    for (const LayerSpec& layer : stack.layers) {
      terms += static_cast<double>(2 * stack.d_model + layer.ffn.d_ff + length +
                                   layer.attention.head_dim * (1 + layer.attention.heads));
    }
    terms += static_cast<double>(stack.d_model);
  }
  for (double v : logits) top = std::max(top, std::abs(v));
  return test::reordered<Real>(terms, top);
}

// One thread: these models are so small that waking a second one costs more than it saves.
class EveryModel : public ::testing::TestWithParam<test::ModelCase> {
 protected:
  EveryModel() { at::set_num_threads(1); }
};

TEST_P(EveryModel, LogitsAndScoresEqualTheSlowReference) {
  const ModelSpec spec = test::spec_of(GetParam());
  const Model model(spec);
  for (const int64_t length : {1, 2, 7, 12}) {
    const auto tokens = random_tokens(length, 11 + static_cast<uint64_t>(length));
    const ParameterSet exact = random_parameters(spec, 5, at::kDouble);
    const auto expected = reference::logits(spec, weights_of(exact), tokens, kEos);
    const ForwardOptions in64{kEos, at::kDouble}, in32{kEos, at::kFloat};
    const at::NoGradGuard no_grad;
    const auto actual = values(model.forward(exact, tensor_of(tokens), in64));
    EXPECT_TRUE(test::within(actual, expected, logit_bound<double>(spec, length, expected)));
    EXPECT_LE(test::relative_l2(actual, expected), 1e-12);

    const auto scores = reference::log_probabilities(spec, weights_of(exact), tokens, kEos);
    EXPECT_TRUE(test::within(values(model.score(exact, tensor_of(tokens), in64)), scores,
                             logit_bound<double>(spec, length, expected)));

    const ParameterSet single = random_parameters(spec, 5, at::kFloat);
    const auto rounded = reference::logits(spec, weights_of(single), tokens, kEos);
    EXPECT_TRUE(test::within(values(model.forward(single, tensor_of(tokens), in32)), rounded,
                             logit_bound<float>(spec, length, rounded)));
  }
}

// The loss of the trainer differentiated by fourth-order central differences at a few elements of
// every tensor; shared K/V receive the sum over their readers.
TEST_P(EveryModel, GradientsEqualCentralDifferences) {
  const ModelSpec spec = test::spec_of(GetParam());
  const Model model(spec);
  ParameterSet set = random_parameters(spec, 9, at::kDouble);
  const auto text = random_tokens(22, 4);
  const auto at_rows = [](const std::vector<int64_t>& v, int64_t first) {
    at::Tensor rows = at::empty({2, 10}, at::kLong);
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t i = 0; i < 10; ++i) {
        rows.data_ptr<int64_t>()[r * 10 + i] = v[static_cast<size_t>(r * 11 + i + first)];
      }
    }
    return rows;
  };
  const at::Tensor tokens = at_rows(text, 0), targets = at_rows(text, 1);
  at::Tensor weights = at::ones({2, 10});
  weights.data_ptr<float>()[4] = 0.25f;
  weights.data_ptr<float>()[13] = 0.0f;
  ForwardOptions options{kEos, at::kDouble};
  options.z_loss = 0.01;
  const auto loss = [&] {
    const at::NoGradGuard no_grad;
    return model.loss(set, tokens, targets, weights, options).item<double>();
  };
  set.require_grad(true);
  // A token decoder over blocks of one token never reads its own table: no gradient, not a zero.
  auto gradients = torch::autograd::grad({model.loss(set, tokens, targets, weights, options)},
                                         set.tensors, {}, std::nullopt, false, true);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) gradients[i] = at::zeros_like(set.tensors[i]);
  }
  const double base = loss();
  constexpr double kStep = 2e-4;
  // Roundings of four losses over the step, and the h⁴ term with a fifth derivative of order 10³.
  const test::Bound bound{
      2e4 * std::numeric_limits<double>::epsilon() * base / kStep + 1e3 * std::pow(kStep, 4) * base,
      "central differences: c·eps·loss/h + f⁗′·h⁴"};
  for (size_t i = 0; i < set.tensors.size(); ++i) {
    const Philox random(77, i);
    std::vector<double> numeric, analytic;
    for (uint64_t draw = 0; draw < 3; ++draw) {
      const auto element = random.below(draw, static_cast<uint64_t>(set.specs[i].numel()));
      double& x = set.tensors[i].data_ptr<double>()[element];
      const double kept = x;
      const auto at = [&](double delta) {
        x = kept + delta;
        const double value = loss();
        x = kept;
        return value;
      };
      numeric.push_back((8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) /
                        (12 * kStep));
      analytic.push_back(gradients[i].contiguous().data_ptr<double>()[element]);
    }
    EXPECT_TRUE(test::within(analytic, numeric, bound)) << set.specs[i].name;
  }
}

// Rows of the sequence stack that a row's state depends on: its own and this many before.
int64_t reach(const StackSpec& stack) {
  constexpr int64_t kAll = 1 << 20;
  std::vector<int64_t> stream = {0};  // before each layer
  for (const LayerSpec& layer : stack.layers) {
    const int64_t window = layer.attention.window;
    const int64_t keys = stream[static_cast<size_t>(layer.kv_owner)];
    const int64_t seen = window == 0 ? kAll : window - 1 + keys;
    stream.push_back(std::max(stream.back(), seen));
  }
  return stream.back();
}

// A change of token i reaches no earlier row, and every later row within reach of the windows.
TEST_P(EveryModel, ATokenNeverChangesEarlierRows) {
  const ModelSpec spec = test::spec_of(GetParam());
  const Model model(spec);
  const ParameterSet set = random_parameters(spec, 2, at::kDouble);
  const ForwardOptions options{kEos, at::kDouble};
  const at::NoGradGuard no_grad;
  const auto tokens = random_tokens(12, 1);
  const at::Tensor before = model.forward(set, tensor_of(tokens), options)[0];
  const at::Tensor scores = model.score(set, tensor_of(tokens), options)[0];
  for (size_t i = 0; i < tokens.size(); ++i) {
    auto changed = tokens;
    changed[i] = (changed[i] + 1) % 29;
    const at::Tensor after = model.forward(set, tensor_of(changed), options)[0];
    for (size_t row = 0; row < tokens.size(); ++row) {
      const auto r = static_cast<int64_t>(row);
      // Blocks hand a token on only when they are complete, so there windows are left to bounds.
      const int64_t distance = r - static_cast<int64_t>(i);
      const bool within_reach = distance <= reach(spec.stacks[0]);
      if (distance >= 0 && spec.block && !within_reach) continue;
      EXPECT_EQ(after[r].equal(before[r]), distance < 0 || !within_reach)
          << "token " << i << ", row " << row;
    }
    const at::Tensor rescored = model.score(set, tensor_of(changed), options)[0];
    for (size_t row = 0; row < i; ++row) {
      EXPECT_EQ(rescored[static_cast<int64_t>(row)].item<double>(),
                scores[static_cast<int64_t>(row)].item<double>());
    }
  }
}

TEST_P(EveryModel, OwnsExactlyTheListedParameters) {
  const ModelSpec spec = test::spec_of(GetParam());
  const ParameterSet set = init_parameters(spec, 1);
  int64_t total = 0;
  for (const at::Tensor& t : set.tensors) total += t.numel();
  EXPECT_EQ(total, parameter_count(spec));
  // Every parameter reaches the loss, and no stage reads one that is not listed.
  std::vector<int> used(set.tensors.size());
  for (const Stage& stage : make_stages(spec)) {
    for (size_t index : stage.parameters) ++used[index];
  }
  ++used[head_parameter(spec)];
  for (size_t i = 0; i < used.size(); ++i) EXPECT_GE(used[i], 1) << set.specs[i].name;
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModel, ::testing::ValuesIn(test::model_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Model, Cla1IsTheBaselineBitForBit) {
  const std::string attention = "heads: 4, kv_heads: 2, head_dim: 6";
  const ModelSpec plain = test::spec_of({"none", test::decoder_yaml(attention, "none")});
  const ModelSpec shared = test::spec_of({"cla1", test::decoder_yaml(attention, "cla1")});
  EXPECT_EQ(plain, shared);
  const at::Tensor tokens = tensor_of(random_tokens(17, 3));
  const ForwardOptions options{kEos, at::kFloat};
  const at::Tensor a = Model(plain).forward(init_parameters(plain, 7), tokens, options);
  const at::Tensor b = Model(shared).forward(init_parameters(shared, 7), tokens, options);
  EXPECT_TRUE(a.equal(b));
}

// Packed documents: the loss of each row is the reference's with attention cut at its document.
TEST(Model, ADocumentMaskKeepsAttentionInside) {
  for (const char* extra : {"", ", window: 4"}) {
    const ModelSpec spec = test::spec_of(
        {"masked",
         test::decoder_yaml(std::string("heads: 4, kv_heads: 2, head_dim: 6") + extra, "cla2")});
    const Model model(spec);
    const ParameterSet set = random_parameters(spec, 5, at::kDouble);
    const auto tokens = random_tokens(12, 8), targets = random_tokens(12, 9);
    const std::vector<size_t> first = {0, 0, 0, 3, 3, 3, 3, 7, 8, 8, 8, 8};
    at::Tensor begin = at::empty({1, 12}, at::kInt);
    for (size_t t = 0; t < 12; ++t) begin.data_ptr<int32_t>()[t] = static_cast<int32_t>(first[t]);
    const auto rows = reference::masked_log_probabilities(spec, weights_of(set), tokens, first);
    for (size_t t = 0; t < 12; ++t) {
      at::Tensor weight = at::zeros({1, 12});
      weight.data_ptr<float>()[t] = 1.0f;
      const double loss =
          model.loss(set, tensor_of(tokens), tensor_of(targets), weight, {kEos, at::kDouble}, begin)
              .item<double>();
      EXPECT_NEAR(loss, -rows[t][static_cast<size_t>(targets[t])],
                  test::reordered<double>(600, 8).absolute);
    }
  }
}

// In a Block Transformer a document sees no block before its own first one: what the context of
// that first block is made from is its own start block.
TEST(Model, ADocumentMaskOverBlocksHidesEarlierDocuments) {
  const ModelSpec spec = test::spec_of({"block", test::block_yaml(4, 2, "cla2", "none")});
  const Model model(spec);
  const ParameterSet set = random_parameters(spec, 2, at::kDouble);
  auto tokens = random_tokens(24, 1);
  at::Tensor begin = at::zeros({1, 24}, at::kInt);
  for (int64_t t = 12; t < 24; ++t) begin.data_ptr<int32_t>()[t] = 12;
  const auto hidden = [&](const at::Tensor& mask) {
    const at::NoGradGuard no_grad;
    return model.hidden(set, tensor_of(tokens), {kEos, at::kDouble}, Rows::kNext, mask)[0];
  };
  const at::Tensor before = hidden(begin), open = hidden({});
  tokens[5] = (tokens[5] + 1) % 29;
  const at::Tensor after = hidden(begin);
  // Row r predicts token r + 1; block 3 (tokens 12–15) still follows block 2's state.
  EXPECT_TRUE(after.narrow(0, 15, 9).equal(before.narrow(0, 15, 9)));
  EXPECT_FALSE(hidden({}).narrow(0, 15, 9).equal(open.narrow(0, 15, 9)));
  const auto first = values(before.narrow(0, 0, 11)), unmasked = values(open.narrow(0, 0, 11));
  EXPECT_TRUE(test::within(first, unmasked, logit_bound<double>(spec, 24, unmasked)));
  begin.data_ptr<int32_t>()[23] = 13;
  test::expect_error(ErrorCode::kRequest, {"begins at token 13", "block.pad"},
                     [&] { hidden(begin); });
}

// Definitions written out; three of four blocks count.
TEST(BlockLosses, EqualTheirDefinitions) {
  const int64_t n = 4, d = 6;
  const Philox random(3);
  at::Tensor states = at::empty({2, 2, d}, at::kDouble), next = at::empty_like(states);
  for (int64_t i = 0; i < n * d; ++i) {
    states.data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
    next.data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(1000 + i));
  }
  const at::Tensor weights = at::tensor({0.f, 1.f, 0.f, 1.f, 1.f, 0.f, 0.f, 0.f}).view({2, 4});
  const at::Tensor mask = weighted_blocks(weights, 2);  // of tokens 0 1 | 2 3, weights one behind
  EXPECT_TRUE(mask.equal(at::tensor({0, 1, 1, 0}).to(at::kBool).view({2, 2})));
  const at::Tensor three = at::tensor({1, 1, 0, 1}).to(at::kBool).view({2, 2});
  const auto row = [&](const at::Tensor& x, int64_t i) { return values(x.view({n, d})[i]); };
  const std::vector<int64_t> chosen = {0, 1, 3};
  double mse = 0, contrastive = 0;
  for (int64_t i : chosen) {
    const auto cosine = [&](int64_t j) {
      const auto a = row(states, i), b = row(next, j);
      double ab = 0, aa = 0, bb = 0;
      for (size_t e = 0; e < a.size(); ++e) ab += a[e] * b[e], aa += a[e] * a[e], bb += b[e] * b[e];
      return ab / std::sqrt(aa * bb) / 0.07;
    };
    double total = 0;
    for (int64_t j : chosen) total += std::exp(cosine(j));
    contrastive += (std::log(total) - cosine(i)) / 3;
    const auto a = row(states, i), b = row(next, i);
    for (size_t e = 0; e < a.size(); ++e) mse += (a[e] - b[e]) * (a[e] - b[e]) / (3.0 * d);
  }
  const double near = test::reordered<double>(64, 20).absolute;
  const auto loss = [&](BlockDecodingLoss kind) {
    return block_decoding_loss(kind, states, next, three).item<double>();
  };
  EXPECT_NEAR(loss(BlockDecodingLoss::kMse), mse, near);
  EXPECT_NEAR(loss(BlockDecodingLoss::kContrastive), contrastive, near);
}

// The auxiliary terms in the whole loss: auto-encoding decodes each block from its own embedding,
// so it is the plain loss of a model whose contexts are those embeddings.
TEST(BlockLosses, AddToTheLossInProportion) {
  const ModelSpec spec = test::spec_of({"block", test::block_yaml(4, 2, "cla2", "none")});
  const Model model(spec);
  ParameterSet set = random_parameters(spec, 2, at::kDouble);
  const at::Tensor text = tensor_of(random_tokens(13, 1));
  const auto loss = [&](const BlockLossOptions& extra, double weight) {
    ForwardOptions options{kEos, at::kDouble};
    options.block_losses = extra;
    return model.loss(set, text.narrow(1, 0, 12), text.narrow(1, 1, 12), at::full({1, 12}, weight),
                      options);
  };
  const double plain = loss({}, 1).item<double>();
  const double coded = loss({BlockDecodingLoss::kNone, 1, 1}, 1).item<double>() - plain;
  const double near = test::reordered<double>(400, plain).absolute;
  EXPECT_GT(coded, 0);
  EXPECT_NEAR(loss({BlockDecodingLoss::kNone, 1, 0.25}, 1).item<double>(), plain + coded / 4, near);
  EXPECT_NEAR(loss({BlockDecodingLoss::kNone, 1, 1}, 0.5).item<double>(), (plain + coded) / 2,
              near);
  const double mse = loss({BlockDecodingLoss::kMse, 1, 0}, 1).item<double>() - plain;
  EXPECT_NEAR(loss({BlockDecodingLoss::kMse, 3, 0}, 1).item<double>(), plain + 3 * mse, 8 * near);
  // The embedding of the next block is a target, not a parameter to pull.
  set.require_grad(true);
  const auto own = torch::autograd::grad({loss({BlockDecodingLoss::kMse, 1, 1}, 1)}, set.tensors);
  for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(own[i].defined()) << set.specs[i].name;
}

TEST(Model, InitialisationDependsOnlyOnTheSeed) {
  const ModelSpec spec = test::spec_of({"block", test::block_yaml(4, 2, "cla2", "none")});
  const ParameterSet a = init_parameters(spec, 7), b = init_parameters(spec, 7),
                     c = init_parameters(spec, 8);
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_TRUE(a.tensors[i].equal(b.tensors[i]));
    if (!a.specs[i].is_norm() && a.specs[i].role != ParameterRole::kExpansionBias) {
      EXPECT_FALSE(a.tensors[i].equal(c.tensors[i]));
    }
  }
  const at::Tensor& expansion = a.at("global.expansion.weight");
  const double sigma = 1 / std::sqrt(24.0);  // N(0, D^-1/2), n = 960: 5 standard errors
  EXPECT_NEAR(expansion.to(at::kDouble).std().item<double>(), sigma,
              test::statistical(5 * sigma / std::sqrt(2.0 * 960), 7, 960).absolute);
}

// Everything but the library's matrix products has a fixed order; 192 rows make three row tasks.
TEST(Model, GradientsDoNotDependOnTheThreadCountBeyondTheProducts) {
  const ModelSpec spec = test::spec_of({"block", test::block_yaml(4, 2, "cla2", "none")});
  const Model model(spec);
  ParameterSet set = random_parameters(spec, 2, at::kDouble);
  set.require_grad(true);
  const at::Tensor text = at::tensor(random_tokens(4 * 49, 1), at::kLong).view({4, 49});
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const auto gradients =
        torch::autograd::grad({model.loss(set, text.narrow(1, 0, 48), text.narrow(1, 1, 48),
                                          at::ones({4, 48}), {kEos, at::kDouble})},
                              set.tensors);
    results.emplace_back();
    for (const at::Tensor& g : gradients) {
      for (double v : values(g)) results.back().push_back(v);
    }
  }
  double top = 0;
  for (double v : results[0]) top = std::max(top, std::abs(v));
  EXPECT_TRUE(test::within(results[1], results[0], test::reordered<double>(4 * 48 * 6, top)));
}

TEST(Model, BatchRowsAreIndependent) {
  const ModelSpec spec = test::spec_of({"block", test::block_yaml(4, 2, "cla2", "none")});
  const Model model(spec);
  const ParameterSet set = random_parameters(spec, 2, at::kDouble);
  const ForwardOptions options{kEos, at::kDouble};
  const at::Tensor a = tensor_of(random_tokens(8, 1)), b = tensor_of(random_tokens(8, 2));
  const auto both = values(model.forward(set, at::cat({a, b}, 0), options));
  auto apart = values(model.forward(set, a, options));
  const auto second = values(model.forward(set, b, options));
  apart.insert(apart.end(), second.begin(), second.end());
  EXPECT_TRUE(test::within(both, apart, logit_bound<double>(spec, 8, apart)));
}

TEST(Model, Bf16StaysWithinItsRoundings) {
  for (const char* name : {"cla2_separate_norm", "block_cla2", "neox", "sinks_window_cla2",
                           "softcap", "mla_query_latent", "block_encoder", "block_cross_neox"}) {
    for (const test::ModelCase& c : test::model_cases()) {
      if (c.name != name) continue;
      const ModelSpec spec = test::spec_of(c);
      const Model model(spec);
      const ParameterSet set = random_parameters(spec, 5, at::kFloat);
      const at::Tensor tokens = tensor_of(random_tokens(12, 6));
      const at::NoGradGuard no_grad;
      const at::Tensor wide = model.forward(set, tokens, {kEos, at::kFloat});
      const at::Tensor narrow = model.forward(set, tokens, {kEos, at::kBFloat16}).to(at::kFloat);
      // ~8 roundings of 2^-8 per layer that add like a random walk, with room for growth.
      const double relative = ((wide - narrow).norm() / wide.norm()).item<double>();
      EXPECT_LT(relative, 0x1p-8 * 8 * std::sqrt(6.0));
      EXPECT_GT(relative, 0);
    }
  }
}

TEST(Model, TokensOutsideTheVocabularyAreRefused) {
  const ModelSpec spec = test::spec_of(test::model_cases().front());
  const Model model(spec);
  const ParameterSet set = init_parameters(spec, 1);
  test::expect_error(ErrorCode::kData, {"token 29 at position 1", "vocabulary of 29"}, [&] {
    model.forward(set, tensor_of({1, 29}), {kEos, at::kFloat});
  });
  test::expect_error(ErrorCode::kRequest, {"EOS id 40"}, [&] {
    model.forward(set, tensor_of({1, 2}), {40, at::kFloat});
  });
}

}  // namespace
}  // namespace ashlar
