#include "quantize/quantize.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quantize/fuse.h"
#include "quantize/rtn.h"
#include "tests/reference/forward.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/rotations.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

template <typename Real>
test::Weights<Real> weights_of(const ModelData& model) {
  test::Weights<Real> out;
  for (const auto& [name, t] : model.tensors) {
    const auto floats = to_floats(t.load());
    out[name].assign(floats.begin(), floats.end());
  }
  return out;
}

template <typename Real>
std::vector<Real> flat(const test::Matrix<Real>& m) {
  std::vector<Real> out;
  for (const auto& row : m) out.insert(out.end(), row.begin(), row.end());
  return out;
}

struct Rotated {
  ModelSpec spec;
  DoubleWeights weights;
  RotationPlan plan;
};

Rotated rotate(const ModelData& model, const RotationRequest& request) {
  Rotated out;
  out.weights = weights_of<double>(model);
  out.plan = plan_rotation(model.spec, request);
  out.spec = fuse_rotation(model.spec, out.plan, out.weights);
  return out;
}

template <typename Real>
double rotation_error(const ModelData& model, const Rotated& rotated) {
  const auto tokens = test::random_tokens(13, model.spec.vocab_size, 3);
  const auto before =
      flat(test::ReferenceModel<double>(model.spec, weights_of<double>(model)).logits(tokens, 0));
  test::Weights<Real> weights;
  for (const auto& [name, values] : rotated.weights) {
    weights[name].assign(values.begin(), values.end());
  }
  const auto after = flat(
      test::ReferenceModel<Real>(rotated.spec, weights, rotated.plan.manifest).logits(tokens, 0));
  return test::relative_l2(after, before);
}

std::vector<std::pair<std::string, RotationRequest>> requests(const ModelSpec& spec) {
  const RotationRequest all = test::possible_rotations(spec, 7);
  std::vector<std::pair<std::string, RotationRequest>> out = {{"all", all}};
  for (auto [name, member] : {std::pair{"residual", &RotationRequest::residual},
                              {"value", &RotationRequest::value},
                              {"heads", &RotationRequest::heads},
                              {"keys", &RotationRequest::keys},
                              {"down", &RotationRequest::down}}) {
    RotationRequest one;
    one.*member = true;
    if (all.*member) out.emplace_back(name, one);
  }
  return out;
}

// Invariant 2: rotated equals unrotated, each rotation alone and all together.
TEST(Rotation, ChangesNoLogits) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 11);
    for (const auto& [which, request] : requests(spec)) {
      const Rotated rotated = rotate(model, request);
      EXPECT_LE(rotation_error<double>(model, rotated), 1e-12) << name << " " << which;
      EXPECT_LE(rotation_error<float>(model, rotated), 1e-5) << name << " " << which;
    }
  }
}

// One broken rule each must be far outside the bound.
class RotationRules : public testing::Test {
 protected:
  const RotationRequest all_{true, true, true, true, true, 7};  // cut to what a model can carry
  void expect_broken(const ModelSpec& spec, const std::function<void(RotationPlan&)>& damage) {
    const ModelData model = test::random_model(spec, 11);
    Rotated rotated;
    rotated.weights = weights_of<double>(model);
    rotated.plan = plan_rotation(spec, test::possible_rotations(spec, 7));
    damage(rotated.plan);
    rotated.spec = fuse_rotation(spec, rotated.plan, rotated.weights);
    EXPECT_GE(rotation_error<double>(model, rotated), 1e-2);
  }
};

TEST_F(RotationRules, EveryConsumerUndoesTheOwnersValueBasis) {
  expect_broken(test::small_decoder("cla2"), [](RotationPlan& plan) {
    auto& input = plan.changes.at("model.layers.1.self_attn.o_proj.weight").input;
    input.erase(input.begin());
  });
}

TEST_F(RotationRules, KvReadsItsOwnGain) {
  expect_broken(test::small_decoder("cla2", ", kv_norm: separate"), [](RotationPlan& plan) {
    plan.changes.at("model.layers.0.self_attn.k_proj.weight").fold_gain =
        "model.layers.0.input_layernorm.weight";
  });
}

TEST_F(RotationRules, KeysAndQueriesTurnTogether) {
  expect_broken(test::small_decoder(), [](RotationPlan& plan) {
    plan.changes["model.layers.0.self_attn.k_proj.weight"].output = {{hadamard_plan(8), 1, 2, {}}};
  });
}

TEST_F(RotationRules, HeadMixingIsUndoneInTheOutputProjection) {
  expect_broken(test::small_decoder(), [](RotationPlan& plan) {
    plan.changes.at("model.layers.2.self_attn.o_proj.weight").input.pop_back();
  });
}

TEST_F(RotationRules, TheFfnTransformIsUndoneInDown) {
  expect_broken(test::small_decoder(), [](RotationPlan& plan) {
    plan.changes.at("model.layers.3.mlp.down_proj.weight").input.clear();
  });
}

TEST_F(RotationRules, EveryWriterTurnsItsOutput) {
  expect_broken(test::small_decoder(), [](RotationPlan& plan) {
    plan.changes.at("model.layers.3.mlp.down_proj.weight").output.clear();
  });
}

TEST_F(RotationRules, TheSlotButterflyIsOnline) {
  expect_broken(test::small_block(),
                [](RotationPlan& plan) { plan.manifest.stacks[0].slots = false; });
}

TEST_F(RotationRules, PrefixesAndTokensShareOneBasis) {
  expect_broken(test::small_block(), [](RotationPlan& plan) {
    plan.changes.at("global.expansion.weight").output[0].signs.assign(24, 1);
  });
}

TEST_F(RotationRules, ThePrefixBiasTurnsToo) {
  expect_broken(test::small_block(),
                [](RotationPlan& plan) { plan.changes.erase("global.expansion.bias"); });
}

// Each bias and each gain of the variants, forgotten.
TEST_F(RotationRules, BiasesTurnWithWhatTheyAreAddedTo) {
  const ModelSpec spec = test::decoder_variant("heads: 4, kv_heads: 2, head_dim: 8, bias: all", "",
                                               "kind: gelu, d_ff: 24, bias: true");
  for (const char* bias :
       {"self_attn.v_proj.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"}) {
    SCOPED_TRACE(bias);
    expect_broken(spec, [&](RotationPlan& plan) {
      plan.changes.erase(std::string("model.layers.1.") + bias);
    });
  }
}

TEST_F(RotationRules, AProjectionWritesTheWholeWidth) {
  const ModelSpec spec = test::block_variant(", embedder: projection, embedding_dim: 10");
  EXPECT_FALSE(plan_rotation(spec, all_).manifest.stacks[0].slots);
  for (const char* name : {"global.embed_projection.weight", "global.embed_projection.bias"}) {
    SCOPED_TRACE(name);
    expect_broken(spec, [&](RotationPlan& plan) { plan.changes.erase(name); });
  }
}

TEST_F(RotationRules, ContextsOutsideTheStreamStay) {
  const ModelSpec spec = test::block_variant(", context: cross_attention");
  EXPECT_TRUE(plan_rotation(spec, all_).changes.at("global.expansion.weight").output.empty());
  for (const char* name : {"q_proj", "o_proj"}) {
    SCOPED_TRACE(name);
    expect_broken(spec, [&](RotationPlan& plan) {
      plan.changes.erase(fmt::format("local.layers.0.cross_attn.{}.weight", name));
    });
  }
}

TEST_F(RotationRules, LatentsTurnWithBothUpProjections) {
  for (const char* name : {"kv_a_proj_with_mqa", "k_b_proj", "v_b_proj"}) {
    SCOPED_TRACE(name);
    expect_broken(test::small_latent(), [&](RotationPlan& plan) {
      TensorChange& change =
          plan.changes.at(fmt::format("model.layers.0.self_attn.{}.weight", name));
      (change.output.empty() ? change.input : change.output).clear();
    });
  }
}

TEST(Rotation, WhatCannotTurnIsRefusedWithTheReason) {
  const auto refuses = [](const ModelSpec& spec, const RotationRequest& request,
                          const std::vector<std::string>& fragments) {
    test::expect_error(ErrorCode::kRequest, fragments, [&] { plan_rotation(spec, request); });
  };
  const ModelSpec norm =
      test::decoder_variant("heads: 4, head_dim: 8", ", norm: {kind: layernorm}");
  refuses(norm, {true, false, false, false, false, 1}, {"LayerNorm", "'residual'"});
  EXPECT_NO_THROW(plan_rotation(norm, {false, true, true, true, true, 1}));
  refuses(test::small_latent(), {false, false, false, true, false, 1}, {"latent", "'keys'"});
}

TEST_F(RotationRules, ATiedHeadIsUntied) {
  const ModelSpec spec = test::small_decoder("none", "", true);
  const ModelData model = test::random_model(spec, 11);
  Rotated rotated = rotate(model, all_);
  EXPECT_FALSE(rotated.spec.tied_head);
  rotated.spec.tied_head = true;  // as if the table still served as head: gain and basis are lost
  EXPECT_GE(rotation_error<double>(model, rotated), 1e-2);
}

TEST(Rotation, SizesWithoutAHadamardMatrixAreNamed) {
  const ModelSpec spec = test::spec_from_yaml(
      "kind: decoder\nvocab_size: 61\ndecoder: {d_model: 30, layers: 1, attention: {heads: 5, "
      "kv_heads: 1, head_dim: 6}, ffn: {d_ff: 34}}\n");
  const auto refuses = [&](const RotationRequest& request, const std::string& what) {
    test::expect_error(ErrorCode::kRequest, {what, "no known Hadamard matrix", "recipe"},
                       [&] { plan_rotation(spec, request); });
  };
  refuses({true, false, false, false, false, 1}, "model d_model = 30");
  refuses({false, true, false, false, false, 1}, "model layer 0 head_dim = 6");
  refuses({false, false, true, false, false, 1}, "model layer 0 heads = 5");
  refuses({false, false, false, true, false, 1}, "model layer 0 head_dim = 6");
  refuses({false, false, false, false, true, 1}, "model layer 0 d_ff = 34");
}

TEST(Rtn, ErrorsStayWithinHalfAStep) {
  const Philox rng(3);
  for (int bits : {4, 8}) {
    for (int64_t in : {1, 2, 7, 32, 33, 100}) {
      for (int64_t group : {0, 1, 5, 32}) {
        std::vector<double> x(static_cast<size_t>(3 * in));
        for (size_t i = 0; i < x.size(); ++i) x[i] = rng.normal(i);
        const WeightTensor t = quantize_rtn("w", x, 3, in, {bits, group, ClipKind::kNone});
        const auto back = to_floats(t);
        const auto& q = std::get<QuantTensor>(t.value);
        for (size_t i = 0; i < x.size(); ++i) {
          const auto row = static_cast<int64_t>(i) / in, k = static_cast<int64_t>(i) % in;
          const int64_t groups = (in + q.group - 1) / q.group;
          uint16_t h = 0;
          std::memcpy(&h, q.scale.data() + 2 * (row * groups + k / q.group), 2);
          // The fp16 scale may be 2^-11 short, which clips the largest value by that share of it.
          const double step = half_to_float(h);
          EXPECT_LE(std::abs(back[i] - x[i]),
                    test::quantized(step, 0.5, std::abs(x[i]) * 0x1p-11).absolute * (1 + 1e-6));
        }
      }
    }
  }
}

TEST(Rtn, SearchNeverLosesAndZeroRowsStayZero) {
  const Philox rng(4);
  std::vector<double> x(64 * 8);
  for (size_t i = 0; i < x.size(); ++i) x[i] = i < 64 ? 0 : rng.normal(i) * (i % 17 == 0 ? 5 : 1);
  const auto error = [&](ClipKind clip) {
    const auto back = to_floats(quantize_rtn("w", x, 8, 64, {4, 16, clip}));
    double total = 0;
    for (size_t i = 0; i < x.size(); ++i) total += (back[i] - x[i]) * (back[i] - x[i]);
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(back[i], 0.0f);
    return total;
  };
  EXPECT_LT(error(ClipKind::kSearch), error(ClipKind::kNone));
  x[100] = std::nan("");
  test::expect_error(ErrorCode::kData, {"tensor 'w'", "row 1"}, [&] {
    quantize_rtn("w", x, 8, 64, {4, 16, ClipKind::kNone});
  });
}

// Symmetric int4 with a searched clip on N(0,1) reaches the error of the best clip: 1.289e-2.
TEST(Rtn, SearchReachesTheBestClipOnGaussians) {
  const Philox rng(5);
  const int64_t n = 1 << 16;
  std::vector<double> x(n);
  for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = rng.normal(static_cast<uint64_t>(i));
  const auto back = to_floats(quantize_rtn("w", x, 1, n, {4, 0, ClipKind::kSearch}));
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = back[static_cast<size_t>(i)] - x[static_cast<size_t>(i)];
    error += e * e / static_cast<double>(n);
  }
  const std::vector<double> actual = {error}, expected = {1.19e-2};
  EXPECT_TRUE(test::within(actual, expected, test::statistical(6e-4, 5, n)));
}

TEST(Recipe, RoundTripsAndNamesMistakes) {
  const auto parse = [](const std::string& text) {
    return recipe_from_node(parse_yaml(text, "r.yaml"));
  };
  const Recipe recipe = parse(
      "rotation: {kinds: [residual, keys], seed: 9}\nweights: {bits: 4, group: 32}\n"
      "kv: {key: q4, value: q8}\n");
  EXPECT_TRUE(recipe.rotation.residual && recipe.rotation.keys && !recipe.rotation.value);
  EXPECT_EQ(recipe.head.bits, 8);
  EXPECT_EQ(recipe_from_node(to_node(recipe)).kv, recipe.kv);
  const auto refuses = [&](const std::string& text, const std::vector<std::string>& fragments) {
    test::expect_error(ErrorCode::kRequest, fragments, [&] { parse(text); });
  };
  refuses("weights: {bits: 5}\n", {"r.yaml:1: weights.bits", "5 is not one of 4, 8, 16"});
  refuses("weights: {bits: 4}\nrotation: {kinds: [spin]}\n", {"r.yaml:2", "'spin' is not one of"});
  refuses("weights: {bits: 4}\nkv: {key: q5}\n", {"q5"});
  refuses("wights: {bits: 4}\n", {"weights: missing required key"});
}

TEST(Quantize, RefusesWhatIsQuantizedAlready) {
  const ModelData model = test::random_model(test::small_decoder(), 1);
  Recipe recipe;
  recipe.weights = recipe.head = {4, 8, ClipKind::kNone};
  const ModelData once = quantize_model(model, recipe);
  EXPECT_TRUE(once.tensor("lm_head.weight").quantized());
  test::expect_error(ErrorCode::kRequest, {"quantized already"},
                     [&] { quantize_model(once, recipe); });
}

// Codes of a foreign file have no recipe: their values are what is rotated and quantized.
TEST(Quantize, TakesForeignCodesAsTheirValues) {
  Recipe recipe;
  recipe.weights = {4, 8, ClipKind::kNone};
  const ModelData model = test::random_model(test::small_decoder(), 1);
  ModelData codes = quantize_model(model, recipe), values = codes;
  codes.recipe = values.recipe = Node();
  for (auto& [name, t] : values.tensors) {
    t = make_dense(name, t.shape(), to_floats(t.load()));
  }
  EXPECT_EQ(weights_sha256(quantize_model(codes, recipe)),
            weights_sha256(quantize_model(values, recipe)));
}

}  // namespace
}  // namespace ashlar
