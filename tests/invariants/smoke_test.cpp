// Invariants that hold for every configs/smoke/*.yaml, and a check that every YAML in configs/
// loads.

#include <gtest/gtest.h>

#include <filesystem>

#include "core/config/config.h"
#include "engine/model/engine.h"
#include "package/format/package.h"
#include "quantize/recipe.h"
#include "tests/support/engine_logits.h"
#include "tests/support/files.h"
#include "tests/support/logit_bound.h"
#include "tests/support/random_model.h"
#include "tests/support/smoke_files.h"
#include "tests/support/tolerance.h"
#include "tests/support/train_logits.h"
#include "train/config.h"

namespace ashlar {
namespace {
namespace fs = std::filesystem;

using test::smoke_files;
using test::yaml_files;

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
      const auto expected = test::train_logits(model, tokens);
      EXPECT_TRUE(test::within(test::engine_logits(package, tokens), expected,
                               test::logit_bound(spec, expected, 4)));
    }
  }
}

struct Feeding {
  int threads = 1;
  int64_t chunk = 512;   // tokens a step
  size_t prompt = 1000;  // tokens in the first feed; the others come one by one
};

// Logits after every token of all texts, fed together.
std::vector<std::vector<float>> fed_logits(const ModelData& model,
                                           const std::vector<std::vector<int32_t>>& texts,
                                           const Feeding& how) {
  EngineOptions options;
  options.threads = how.threads;
  options.chunk_tokens = how.chunk;
  Engine engine(model, options);
  const auto vocab = static_cast<size_t>(model.spec.vocab_size);
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<std::vector<float>> out;
  size_t longest = 0;
  for (const auto& text : texts) {
    sequences.push_back(engine.start({CodecKind::kQ8, CodecKind::kF16}, nullptr, false));
    out.emplace_back(text.size() * vocab);
    longest = std::max(longest, text.size());
  }
  for (size_t begin = 0; begin < longest;) {
    const size_t end = begin == 0 ? std::min(how.prompt, longest) : begin + 1;
    std::vector<StepItem> items;
    for (size_t i = 0; i < texts.size(); ++i) {
      const size_t last = std::min(end, texts[i].size());
      if (begin >= last) continue;
      items.push_back({sequences[i].get(), std::span(texts[i]).subspan(begin, last - begin), true,
                       out[i].data() + begin * vocab});
    }
    engine.feed(items);
    begin = end;
  }
  return out;
}

// Invariant 3: chunked = one-shot = token by token = any thread count, batched = alone, bit for
// bit.
TEST(Invariant3, FeedingATextInAnotherWayChangesNoBit) {
  for (const fs::path& path : smoke_files()) {
    SCOPED_TRACE(path.string());
    const ModelSpec spec = model_spec_from_config(*load_yaml(path).find("model"));
    const ModelData model = test::random_model(spec, 32);
    const auto text = test::random_tokens(51, spec.vocab_size, 9);
    const auto other = test::random_tokens(30, spec.vocab_size, 10);
    const auto whole = fed_logits(model, {text}, {})[0];
    EXPECT_TRUE(test::within(fed_logits(model, {text}, {2, 7, 1000})[0], whole, test::exact()));
    EXPECT_TRUE(test::within(fed_logits(model, {text}, {1, 512, 21})[0], whole, test::exact()));
    const auto together = fed_logits(model, {other, text}, {2, 16, 1000});
    EXPECT_TRUE(test::within(together[1], whole, test::exact()));
    EXPECT_TRUE(test::within(together[0], fed_logits(model, {other}, {})[0], test::exact()));
  }
}

// Invariant 4: a token changes no earlier row, and layers that read shared K/V own none.
TEST(Invariant4, TokensActForwardsAndReadersOwnNoKv) {
  for (const fs::path& path : smoke_files()) {
    SCOPED_TRACE(path.string());
    const ModelSpec spec = model_spec_from_config(*load_yaml(path).find("model"));
    const ModelData model = test::random_model(spec, 33);
    auto text = test::random_tokens(24, spec.vocab_size, 11);
    const auto vocab = static_cast<std::ptrdiff_t>(spec.vocab_size);
    const auto before = fed_logits(model, {text}, {})[0];
    for (const size_t changed : {5u, 18u}) {
      auto altered = text;
      altered[changed] = static_cast<int32_t>((altered[changed] + 1) % spec.vocab_size);
      const auto after = fed_logits(model, {altered}, {})[0];
      const auto row = static_cast<std::ptrdiff_t>(changed) * vocab;
      EXPECT_TRUE(std::equal(before.begin(), before.begin() + row, after.begin()));
      EXPECT_FALSE(std::equal(before.begin() + row, before.end(), after.begin() + row));
    }
    for (const ParameterSpec& p : parameters(spec)) {
      const bool kv = p.role == ParameterRole::kKey || p.role == ParameterRole::kValue ||
                      p.role == ParameterRole::kLatent || p.role == ParameterRole::kKeyUp ||
                      p.role == ParameterRole::kValueUp || p.role == ParameterRole::kKvNorm ||
                      p.role == ParameterRole::kKeyNorm;
      if (!kv) continue;
      const StackSpec& stack = spec.stacks[static_cast<size_t>(p.stack)];
      EXPECT_EQ(stack.layers[static_cast<size_t>(p.layer)].kv_owner, p.layer) << p.name;
    }
  }
}

}  // namespace
}  // namespace ashlar
