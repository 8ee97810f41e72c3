#include "models/spec/lora.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/files.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

LoraSpec read(const std::string& yaml, const ModelSpec& model) {
  return read_lora(parse_yaml(yaml, "l.yaml"), parameters(model));
}

TEST(Lora, AdaptersStandBesideTheLinearMapsThatMatch) {
  const ModelSpec model = test::small_decoder("cla2");
  const auto specs = parameters(model);
  const LoraSpec lora = read("{rank: 4, alpha: 6, targets: ['*.q_proj.*', '*.0.*']}", model);
  EXPECT_EQ(lora.scale(), 1.5);
  const auto adapters = lora_adapters(lora, specs);
  std::vector<std::string> names;
  for (const LoraAdapter& adapter : adapters) {
    const ParameterSpec& p = specs[adapter.target];
    names.push_back(p.name);
    EXPECT_EQ(adapter.down.name, p.name + ".lora_a");
    EXPECT_EQ(adapter.up.name, p.name + ".lora_b");
    EXPECT_EQ(adapter.down.shape, (std::vector<int64_t>{4, p.shape[1]}));
    EXPECT_EQ(adapter.up.shape, (std::vector<int64_t>{p.shape[0], 4}));
    EXPECT_EQ(adapter.down.layer, p.layer);
    EXPECT_TRUE(adapter.up.is_adapter() && adapter.up.is_matrix() && !adapter.up.is_linear());
  }
  // Seven of layer 0, no norm; Q of the other three. Each once.
  const std::string layer = "model.layers.0.";
  EXPECT_EQ(names, (std::vector<std::string>{
                       layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight",
                       layer + "self_attn.v_proj.weight", layer + "self_attn.o_proj.weight",
                       layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight",
                       layer + "mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight",
                       "model.layers.2.self_attn.q_proj.weight",
                       "model.layers.3.self_attn.q_proj.weight"}));
  EXPECT_EQ(read_lora(lora_node(lora), specs), lora);
}

TEST(Lora, MistakesNameFileLineAndKey) {
  const auto refuses = [](const std::string& yaml, const std::vector<std::string>& why) {
    test::expect_error(ErrorCode::kRequest, why, [&] { read(yaml, test::small_decoder()); });
  };
  refuses("{rank: 4}", {"l.yaml:1: lora.targets"});
  refuses("{targets: []}", {"lora.targets", "empty"});
  refuses("rank: 4\ntargets:\n  - '*.q_proj.*'\n  - '*.qproj.*'\n",
          {"l.yaml:4: lora.targets[1]", "'*.qproj.*' matches no linear map"});
  refuses("{targets: ['*norm*', '*embed_tokens*']}", {"lora.targets[0]", "no linear map"});
  refuses("{rank: 17, targets: ['*.k_proj.*']}", {"lora.rank", "17 exceeds", "[16, 32]"});
  refuses("{rank: 0, targets: ['*']}", {"lora.rank"});
  refuses("{dropout: 0.1, targets: ['*.q_proj.*']}", {"lora.dropout", "unknown key"});
}

TEST(Lora, FreshAdaptersChangeNothing) {
  const ModelSpec model = test::small_decoder();
  const auto adapters =
      lora_adapters(read("{rank: 16, targets: ['*_proj.*']}", model), parameters(model));
  const LoraAdapter &first = adapters[0], &second = adapters[1];
  const std::vector<float> down = init_adapter(first.down, first.target, 3);
  const std::vector<float> up = init_adapter(first.up, first.target, 3);
  EXPECT_EQ(up, std::vector<float>(up.size(), 0.0f));
  EXPECT_EQ(down, init_adapter(first.down, first.target, 3));
  EXPECT_NE(down, init_adapter(first.down, first.target, 4));
  EXPECT_NE(down, init_adapter(first.down, second.target, 3));
  double square = 0;
  for (float v : down) square += static_cast<double>(v) * static_cast<double>(v);
  // n draws: the mean square has a deviation of √(2/n) of itself; four of them.
  const auto n = static_cast<int64_t>(down.size());
  const double spread = 4 * std::sqrt(2.0 / static_cast<double>(n)) / 32;
  EXPECT_NEAR(square / static_cast<double>(n), 1.0 / 32, test::statistical(spread, 3, n).absolute);
  const std::vector<float> weight(static_cast<size_t>(first.up.shape[0] * 32), 0.3f);
  EXPECT_EQ(merge_adapter(weight, down, up, 16, 2.0), weight);
}

// Whole numbers: every order of additions gives the same.
TEST(Lora, MergingIsTheFormula) {
  constexpr int64_t kOut = 3, kIn = 5, kRank = 2;
  std::vector<float> weight, down, up, expected;
  for (int i = 0; i < kOut * kIn; ++i) weight.push_back(static_cast<float>(i * i - 20));
  for (int i = 0; i < kRank * kIn; ++i) down.push_back(static_cast<float>(3 * i - 7));
  for (int i = 0; i < kOut * kRank; ++i) up.push_back(static_cast<float>(5 - 2 * i));
  for (size_t o = 0; o < kOut; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      float sum = 0;
      for (size_t r = 0; r < kRank; ++r) sum += up[o * kRank + r] * down[r * kIn + i];
      expected.push_back(weight[o * kIn + i] + 1.5f * sum);
    }
  }
  EXPECT_EQ(merge_adapter(weight, down, up, kRank, 1.5), expected);
}

// Three parts of a quarter of 1's last place: each alone would be rounded away.
TEST(Lora, MergingRoundsOnce) {
  const float small = std::ldexp(1.0f, -25);
  EXPECT_EQ(merge_adapter(std::vector<float>{1}, std::vector<float>{1, 1, 1},
                          std::vector<float>{small, small, small}, 3, 1.0),
            std::vector<float>{1 + std::ldexp(1.0f, -23)});
}

}  // namespace
}  // namespace ashlar
