// Invariants that hold for every configs/smoke/*.yaml, and a check that every YAML in configs/
// loads.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/config/config.h"
#include "engine/model/engine.h"
#include "models/model.h"
#include "package/format/package.h"
#include "quantize/recipe.h"
#include "tests/support/files.h"
#include "tests/support/logit_bound.h"
#include "tests/support/random_model.h"
#include "tests/support/tolerance.h"
#include "train/config.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

std::vector<fs::path> yaml_files(const fs::path& folder) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".yaml") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<fs::path> smoke_files() {
  std::vector<fs::path> out;
  for (const fs::path& path : yaml_files("configs/smoke")) {
    if (path.filename() != "common.yaml") out.push_back(path);
  }
  return out;
}

TEST(Configs, EveryYamlLoads) {
  int64_t count = 0;
  for (const fs::path& path : yaml_files("configs")) {
    SCOPED_TRACE(path.string());
    if (path.filename() == "common.yaml") continue;  // a base, not whole by itself
    const Node root = load_yaml(path);
    if (path.parent_path().filename() == "quantize") {
      EXPECT_NO_THROW(recipe_from_node(root));
    } else {
      EXPECT_NO_THROW(train_config_from(root));
    }
    ++count;
  }
  EXPECT_GE(count, 20);
}

std::vector<float> train_logits(const ModelData& model, const std::vector<int32_t>& tokens) {
  const c10::AutoGradMode no_grad(false);
  const Model network(model.spec);
  ParameterSet set;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const auto values = to_floats(model.tensor(p.name));
    at::Tensor t = at::empty(p.shape, at::kFloat);
    std::copy(values.begin(), values.end(), t.data_ptr<float>());
    set.specs.push_back(p);
    set.tensors.push_back(t);
  }
  at::Tensor ids = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.data_ptr<int64_t>());
  ForwardOptions options;
  options.eos_id = model.start_token;
  const at::Tensor out = network.forward(set, ids, options).contiguous();
  return {out.data_ptr<float>(), out.data_ptr<float>() + out.numel()};
}

std::vector<float> engine_logits(const ModelData& model, const std::vector<int32_t>& tokens) {
  Engine engine(model, {});
  const auto sequence = engine.start({CodecKind::kF32, CodecKind::kF32}, nullptr, false);
  std::vector<float> out(tokens.size() * static_cast<size_t>(model.spec.vocab_size));
  const StepItem item{sequence.get(), tokens, true, out.data()};
  engine.feed(std::span(&item, 1));
  return out;
}

// Invariant 1: training-side fp32 logits equal engine fp32 logits of the exported package.
TEST(Invariant1, TrainingLogitsEqualTheEnginesOnThePackage) {
  ASSERT_GE(smoke_files().size(), 15u);
  for (const fs::path& path : smoke_files()) {
    SCOPED_TRACE(path.string());
    const ModelSpec spec = model_spec_from_config(*load_yaml(path).find("model"));
    const ModelData model = test::random_model(spec, 31);
    const test::TempDir dir;
    write_package(model, dir / "package");
    const ModelData package = read_package(dir / "package");
    for (int64_t length : {64, 37}) {
      const auto tokens = test::random_tokens(length, spec.vocab_size, 8);
      const auto expected = train_logits(model, tokens);
      EXPECT_TRUE(test::within(engine_logits(package, tokens), expected,
                               test::logit_bound(spec, expected, 4)));
    }
  }
}

}  // namespace
}  // namespace ashlar
