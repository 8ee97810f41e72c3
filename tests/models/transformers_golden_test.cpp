#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "core/config/config.h"
#include "core/io/safetensors.h"
#include "models/model.h"
#include "tests/support/tolerance.h"

// The model against what the `transformers` library computed in double precision from the same
// weights: logits, mean cross-entropy and gradients. tests/golden/transformers_models.py says which
// networks, and how their parameters map to ours.

namespace ashlar {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> golden_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("tests/golden")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("transformers_") && name.ends_with(".safetensors")) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  require(info != nullptr, ErrorCode::kData, "{}: no tensor '{}'", file.path().string(), name);
  const at::ScalarType type = info->dtype == DType::kF64   ? at::kDouble
                              : info->dtype == DType::kF32 ? at::kFloat
                                                           : at::kInt;
  at::Tensor out = at::empty(info->shape, type);
  const auto bytes = file.data(*info);
  require(bytes.size() == out.nbytes(), ErrorCode::kData, "{}: '{}' is {}", file.path().string(),
          name, dtype_name(info->dtype));
  std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(out.data_ptr()));
  return out;
}

std::vector<double> values(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(at::kDouble).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

double largest(const std::vector<double>& values) {
  double top = 0;
  for (double v : values) top = std::max(top, std::abs(v));
  return top;
}

// Longest chain of roundings from a token to a logit, every sum on the way; a gradient goes the
// same way back.
double chain(const ModelSpec& spec, int64_t length) {
  const StackSpec& stack = spec.stacks[0];
  double terms = static_cast<double>(stack.d_model);
  for (const LayerSpec& layer : stack.layers) {
    const AttentionSpec& a = layer.attention;
    terms += static_cast<double>(3 * stack.d_model + layer.ffn.d_ff + length + a.query_dim() +
                                 a.heads * a.value_dim() + a.latent_dim + a.query_latent_dim);
  }
  return terms;
}

struct Golden {
  explicit Golden(const fs::path& path)
      : file(path), spec(model_spec_from_config(parse_yaml(file.metadata().at("model"), path))) {
    for (const ParameterSpec& p : parameters(spec)) {
      weights.specs.push_back(p);
      weights.tensors.push_back(read(file, "weight." + p.name).to(at::kDouble));
    }
    const at::Tensor ids = read(file, "tokens").to(at::kLong);
    tokens = ids.narrow(1, 0, ids.size(1) - 1).contiguous();
    targets = ids.narrow(1, 1, ids.size(1) - 1).contiguous();
  }

  SafetensorsFile file;
  ModelSpec spec;
  ParameterSet weights;
  at::Tensor tokens, targets;  // [B, T]
};

class Transformers : public ::testing::TestWithParam<fs::path> {
 protected:
  Transformers() { at::set_num_threads(1); }
};

TEST_P(Transformers, LogitsAgree) {
  const Golden golden(GetParam());
  const Model model(golden.spec);
  const at::NoGradGuard no_grad;
  const auto expected = values(read(golden.file, "logits"));
  const auto actual = values(model.forward(golden.weights, golden.tokens, {0, at::kDouble}));
  const double terms = chain(golden.spec, golden.tokens.size(1));
  EXPECT_TRUE(test::within(actual, expected, test::reordered<double>(terms, largest(expected))));
}

TEST_P(Transformers, LossAndGradientsAgree) {
  Golden golden(GetParam());
  const Model model(golden.spec);
  golden.weights.require_grad(true);
  const double rows = static_cast<double>(golden.tokens.numel());
  const at::Tensor loss = model.loss(golden.weights, golden.tokens, golden.targets,
                                     at::ones_like(golden.tokens, at::kFloat), {0, at::kDouble}) /
                          rows;
  const double terms = chain(golden.spec, golden.tokens.size(1));
  const double top = largest(values(read(golden.file, "logits")));
  EXPECT_TRUE(test::within(values(loss.view({1})), values(read(golden.file, "loss")),
                           test::reordered<double>(terms, top)));

  const auto gradients = torch::autograd::grad({loss}, golden.weights.tensors);
  std::vector<std::vector<double>> expected;
  double norm = 0;
  size_t compared = 0;
  for (const ParameterSpec& p : golden.weights.specs) {
    const bool known = golden.file.find("gradient." + p.name) != nullptr;
    expected.push_back(known ? values(read(golden.file, "gradient." + p.name))
                             : std::vector<double>());
    norm = std::max(norm, largest(expected.back()));
    compared += known ? 1 : 0;
  }
  // An error made on the way reaches every gradient, so the largest one is the measure; forward and
  // back, and a sum over the rows.
  const test::Bound bound = test::reordered<double>(2 * terms + rows, norm);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (expected[i].empty()) continue;
    EXPECT_TRUE(test::within(values(gradients[i]), expected[i], bound))
        << golden.weights.specs[i].name;
  }
  // gpt-oss has another FFN, which is switched off there; everything else is compared.
  const bool other_ffn = golden.file.metadata().at("family") == "gpt_oss";
  const size_t left_out = other_ffn ? 5 * golden.spec.stacks[0].layers.size() : 0;
  EXPECT_EQ(compared + left_out, gradients.size());
}

INSTANTIATE_TEST_SUITE_P(Golden, Transformers, ::testing::ValuesIn(golden_files()),
                         [](const auto& info) { return info.param.stem().string(); });

// An empty folder would pass in silence.
TEST(TransformersGolden, EveryFamilyIsThere) { EXPECT_EQ(golden_files().size(), 17u); }

}  // namespace
}  // namespace ashlar
