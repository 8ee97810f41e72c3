#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>

#include "core/base/glob.h"
#include "core/config/config.h"
#include "tests/support/files.h"
#include "tests/train/run_fixture.h"
#include "train/config.h"
#include "train/optim/config.h"

namespace ashlar {
namespace {

using Role = ParameterRole;

const std::vector<ParameterSpec> kSpecs = {
    {"model.embed_tokens.weight", {32, 8}, Role::kEmbedding, 0, -1},
    {"model.layers.0.input_layernorm.weight", {8}, Role::kAttentionNorm, 0, 0},
    {"model.layers.0.self_attn.q_proj.weight", {8, 8}, Role::kQuery, 0, 0},
    {"model.layers.0.mlp.up_proj.weight", {16, 8}, Role::kUp, 0, 0},
    {"model.layers.0.mlp.up_proj.bias", {16}, Role::kUpBias, 0, 0},
    {"lm_head.weight", {32, 8}, Role::kHead, 0, -1},
};

OptimizerConfig read(const std::string& yaml) {
  return read_optimizer(parse_yaml(yaml, "o.yaml"), kSpecs);
}

ScheduleConfig schedule(const std::string& yaml, int64_t steps) {
  const Node node = parse_yaml(yaml, "s.yaml");
  return read_schedule(&node, steps);
}

TEST(Glob, StarsTakeAnyNumberOfCharacters) {
  EXPECT_TRUE(glob_match("*.mlp.*", "model.layers.0.mlp.up_proj.weight"));
  EXPECT_TRUE(glob_match("model.*.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"));
  EXPECT_TRUE(glob_match("*a*ab", "aaaab"));  // the first star has to give way
  EXPECT_TRUE(glob_match("**", ""));
  EXPECT_TRUE(glob_match("layers.?.norm", "layers.3.norm"));
  EXPECT_FALSE(glob_match("layers.?.norm", "layers.13.norm"));
  EXPECT_FALSE(glob_match("*.mlp", "model.mlp.up"));
  EXPECT_FALSE(glob_match("mlp", "model.mlp"));
  EXPECT_FALSE(glob_match("", "a"));
  EXPECT_FALSE(glob_match("a?", "a"));
}

TEST(OptimizerConfig, DecayIsOfMatricesAndTablesUnlessAGroupSaysOtherwise) {
  const auto plain = parameter_policies(read("{lr: 0.1, weight_decay: 0.2}"), kSpecs);
  const std::vector<double> decays = {0.2, 0, 0.2, 0.2, 0, 0.2};
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    EXPECT_EQ(plain[i], (ParameterPolicy{OptimizerKind::kAdamW, 1.0, decays[i]})) << i;
  }
  const auto grouped =
      parameter_policies(read("lr: 0.1\nweight_decay: 0.2\ngroups:\n"
                              "  - {match: '*.mlp.*', weight_decay: 0, lr_scale: 0.5}\n"
                              "  - {match: '*.up_proj.*', lr_scale: 0.25}\n"
                              "  - {match: '*layernorm*', weight_decay: 0.3}\n"),
                         kSpecs);
  EXPECT_EQ(grouped[0], plain[0]);
  EXPECT_EQ(grouped[1], (ParameterPolicy{OptimizerKind::kAdamW, 1.0, 0.3}));
  EXPECT_EQ(grouped[3], (ParameterPolicy{OptimizerKind::kAdamW, 0.25, 0.0}));  // the later wins
  EXPECT_EQ(grouped[4], (ParameterPolicy{OptimizerKind::kAdamW, 0.25, 0.0}));
}

TEST(OptimizerConfig, MuonIsOfMatricesInsideLayers) {
  const OptimizerConfig config = read(
      "{kind: muon, lr: 0.02, scale: original, weight_decay: 0.05, "
      "adamw: {lr: 0.005, weight_decay: 0.4}}");
  const auto policies = parameter_policies(config, kSpecs);
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    if (i == 2 || i == 3) {
      EXPECT_EQ(policies[i], (ParameterPolicy{OptimizerKind::kMuon, 1.0, 0.05})) << i;
    } else {
      const double decay = kSpecs[i].is_matrix() ? 0.4 : 0.0;
      EXPECT_EQ(policies[i], (ParameterPolicy{OptimizerKind::kAdamW, 0.25, decay})) << i;
    }
  }
  EXPECT_EQ(read("{kind: muon, lr: 0.02}").adamw.lr, 0.02);  // scale rms: updates of one size
}

// arXiv 2203.03466, table 3, relative to the base width.
TEST(OptimizerConfig, WidthRatiosDivideTheRateOfLinearMapsAndKeepTheirDecay) {
  OptimizerConfig config = read("{lr: 0.1, weight_decay: 0.25}");
  config.width_ratios = {4};
  const auto policies = parameter_policies(config, kSpecs);
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    const bool linear = i == 2 || i == 3 || i == 5;
    EXPECT_EQ(policies[i].lr_scale, linear ? 0.25 : 1.0) << i;
    EXPECT_EQ(policies[i].weight_decay, linear ? 1.0 : i == 0 ? 0.25 : 0.0) << i;
  }
  config = read("{kind: muon, lr: 0.1, scale: original, adamw: {lr: 0.1}}");
  config.width_ratios = {4};
  EXPECT_EQ(parameter_policies(config, kSpecs)[2].lr_scale, 1.0);
  EXPECT_EQ(parameter_policies(config, kSpecs)[5].lr_scale, 0.25);
  config.scale = MuonScale::kRms;
  EXPECT_EQ(parameter_policies(config, kSpecs)[2].lr_scale, 0.25);
}

// Adapters: AdamW without decay under every optimizer, at one rate for every width; a group may say
// otherwise.
TEST(OptimizerConfig, AdaptersDoNotDecay) {
  const std::vector<ParameterSpec> adapters = {
      {"model.layers.0.mlp.up_proj.weight.lora_a", {2, 8}, Role::kLoraDown, 0, 0},
      {"model.layers.0.mlp.up_proj.weight.lora_b", {16, 2}, Role::kLoraUp, 0, 0}};
  for (const char* kind : {"adamw", "muon"}) {
    OptimizerConfig config = read_optimizer(
        parse_yaml(fmt::format("kind: {}\nlr: 0.1\ngroups:\n  - {{match: '*.lora_b', lr_scale: 16, "
                               "weight_decay: 0.2}}\n",
                               kind),
                   "o.yaml"),
        adapters);
    config.width_ratios = {4};
    const auto policies = parameter_policies(config, adapters);
    EXPECT_EQ(policies[0], (ParameterPolicy{OptimizerKind::kAdamW, 1.0, 0.0})) << kind;
    EXPECT_EQ(policies[1], (ParameterPolicy{OptimizerKind::kAdamW, 16.0, 0.2})) << kind;
  }
}

TEST(TrainConfig, LowRankAdaptersAreWhatIsTrained) {
  std::string yaml = test::train_yaml("data", "run", test::kDecoderModel);
  yaml += "lora: {rank: 2, alpha: 4, targets: ['*.q_proj.*']}\n";
  yaml += "ema: {decay: 0.9}\n";
  const std::string optimizer = "optimizer: {kind: adamw, ";
  yaml.replace(yaml.find(optimizer), optimizer.size(),
               optimizer + "groups: [{match: '*.lora_b', lr_scale: 2}], ");
  const Node root = parse_yaml(yaml, "t.yaml");
  const TrainConfig config = train_config_from(root);
  EXPECT_EQ(config.lora, (LoraSpec{2, 4, {"*.q_proj.*"}}));
  const auto trained = trained_parameters(config);
  ASSERT_EQ(trained.size(), 8u);  // two in each of four layers
  EXPECT_EQ(trained[7].name, "model.layers.3.self_attn.q_proj.weight.lora_b");
  const TrainConfig again = train_config_from(resolved_config(root, config));
  EXPECT_EQ(again.lora, config.lora);
  EXPECT_EQ(again.ema, config.ema);
  EXPECT_EQ(again.optimizer, config.optimizer);
  EXPECT_EQ(again.schedule, config.schedule);
  yaml.replace(yaml.find("*.lora_b"), 8, "*.weight");  // frozen ones
  test::expect_error(ErrorCode::kRequest, {"t.yaml:9: optimizer.groups[0].match"},
                     [&] { train_config_from(parse_yaml(yaml, "t.yaml")); });
}

TEST(OptimizerConfig, ReadsBackWhatItWrote) {
  for (const char* yaml :
       {"{lr: 0.1}", "{kind: adamw, lr: 0.1, betas: [0.8, 0.99], eps: 1.0e-6, clip: 0}",
        "{kind: lion, lr: 0.1}", "{kind: lion, lr: 0.1, betas: [0.95, 0.98], weight_decay: 1}",
        "{kind: muon, lr: 0.1}",
        "{kind: muon, lr: 0.1, momentum: 0.9, scale: original, adamw: {lr: 0.2, eps: 1.0e-4}, "
        "groups: [{match: '*.mlp.*', lr_scale: 2}, {match: 'lm_head*', weight_decay: 1}]}"}) {
    const OptimizerConfig config = read(yaml);
    EXPECT_EQ(read_optimizer(optimizer_node(config), kSpecs), config) << yaml;
  }
  EXPECT_EQ(read("{kind: lion, lr: 0.1}").beta2, 0.99);
  for (const char* yaml : {"{decay: 0.9}", "{decay: 0.99, every: 5, warmup: true}"}) {
    const EmaConfig config = read_ema(parse_yaml(yaml, "e.yaml"));
    EXPECT_EQ(read_ema(ema_node(config)), config);
  }
}

TEST(OptimizerConfig, MistakesNameFileLineAndKey) {
  const auto refuses = [](const std::string& yaml, const std::vector<std::string>& why) {
    test::expect_error(ErrorCode::kRequest, why, [&] { read(yaml); });
  };
  refuses("{kind: sgd, lr: 1}", {"o.yaml:1: optimizer.kind", "muon"});
  refuses("{kind: adamw, lr: 1, momentum: 0.9}", {"optimizer.momentum", "unknown key"});
  refuses("{kind: lion, lr: 1, eps: 0.1}", {"optimizer.eps", "unknown key"});
  refuses("{kind: muon, lr: 1, betas: [0.9, 0.9]}", {"optimizer.betas", "unknown key"});
  refuses("{kind: muon, lr: 1, scale: original}", {"optimizer.adamw", "lr"});
  refuses("{kind: muon, lr: 1, scale: original, adamw: {eps: 0.1}}", {"optimizer.adamw.lr"});
  refuses("{kind: muon, lr: 1, adamw: {betas: [0.9]}}", {"optimizer.adamw.betas", "two numbers"});
  refuses("lr: 1\ngroups:\n  - {match: '*.mpl.*', lr_scale: 0.1}\n",
          {"o.yaml:3: optimizer.groups[0].match", "'*.mpl.*' matches no parameter"});
  refuses("lr: 1\ngroups:\n  - {match: '*'}\n", {"o.yaml:3", "weight_decay or lr_scale"});
  refuses("lr: 1\ngroups:\n  - {match: '*', wd: 1}\n", {"optimizer.groups[0].wd", "unknown key"});
}

TEST(Schedule, EveryKindIsExactAtItsBorders) {
  const auto expect = [](const std::string& yaml, int64_t steps,
                         std::initializer_list<std::pair<int64_t, double>> values) {
    const ScheduleConfig config = schedule(yaml, steps);
    for (const auto& [step, value] : values) {
      EXPECT_DOUBLE_EQ(schedule_factor(config, steps, step), value) << yaml << " at " << step;
    }
    EXPECT_EQ(read_schedule(std::array{schedule_node(config)}.data(), steps), config) << yaml;
  };
  expect("{kind: cosine, warmup_steps: 10}", 110,
         {{1, 0.1}, {10, 1}, {35, 0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2}, {60, 0.55}, {110, 0.1}});
  expect("{kind: linear, warmup_steps: 10, final_ratio: 0.2}", 110,
         {{5, 0.5}, {10, 1}, {35, 0.8}, {60, 0.6}, {110, 0.2}, {120, 0.2}});
  expect("{kind: linear}", 4, {{1, 0.75}, {4, 0}});
  expect("{kind: constant, warmup_steps: 4}", 10, {{1, 0.25}, {4, 1}, {10, 1}});
  expect("{kind: inverse_sqrt, warmup_steps: 4}", 100, {{2, 0.5}, {4, 1}, {16, 0.5}, {64, 0.25}});
  expect("{kind: wsd, warmup_steps: 5, decay_steps: 20, final_ratio: 0.1}", 100,
         {{5, 1}, {80, 1}, {81, 1 - 0.9 / 20}, {90, 0.55}, {100, 0.1}});
  expect("{kind: wsd, decay_steps: 16, shape: sqrt}", 100,
         {{84, 1}, {85, 0.75}, {88, 0.5}, {93, 0.25}, {100, 0}});
  expect("{kind: wsd}", 100, {{1, 1}, {80, 1}, {90, 0.5}, {100, 0}});
  expect("{kind: wsd, decay_ratio: 0.5}", 10, {{5, 1}, {6, 0.8}, {10, 0}});
  expect("{kind: wsd, decay_steps: 0}", 10, {{10, 1}});
  // A run of 60 steps that had reached step 50 at the peak goes on to 90, decaying from there.
  expect("{kind: wsd, warmup_steps: 5, decay_from: 50}", 90, {{50, 1}, {60, 0.75}, {90, 0}});
}

TEST(Schedule, MistakesNameFileLineAndKey) {
  const auto refuses = [](const std::string& yaml, const std::vector<std::string>& why) {
    test::expect_error(ErrorCode::kRequest, why, [&] { schedule(yaml, 100); });
  };
  refuses("{kind: step}", {"s.yaml:1: schedule.kind", "inverse_sqrt"});
  refuses("{kind: constant, final_ratio: 0.1}", {"schedule.final_ratio", "unknown key"});
  refuses("{kind: cosine, decay_steps: 10}", {"schedule.decay_steps", "unknown key"});
  refuses("{kind: inverse_sqrt}", {"schedule.warmup_steps"});
  refuses("{kind: wsd, decay_steps: 10, decay_ratio: 0.1}", {"one of decay_steps"});
  refuses("{kind: wsd, warmup_steps: 50, decay_steps: 51}", {"schedule.decay_steps"});
  refuses("{kind: wsd, warmup_steps: 50, decay_ratio: 0.6}", {"schedule.decay_ratio", "60 of 100"});
  refuses("{kind: wsd, warmup_steps: 81}", {"schedule.warmup_steps", "20 of 100"});
  refuses("{kind: wsd, warmup_steps: 50, decay_from: 49}", {"schedule.decay_from"});
  refuses("{kind: wsd, shape: cubic}", {"schedule.shape", "sqrt"});
}

}  // namespace
}  // namespace ashlar
