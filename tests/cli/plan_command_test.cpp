#include <gtest/gtest.h>

#include <algorithm>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/io/json.h"
#include "tests/cli/run_command.h"
#include "tests/support/files.h"

namespace ashlar::cli {
namespace {

using test::TempDir;

using test_commands::Outcome;

Outcome plan(std::vector<std::string> arguments) {
  constexpr AddCommand kCommands[] = {add_plan_command};
  arguments.insert(arguments.begin(), "plan");
  return test_commands::run_command(kCommands, std::move(arguments));
}

Node json_of(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  return test_commands::json_of(plan(std::move(arguments)));
}

const char* const kBlock = "configs/pretrain/block-420m.yaml";

TEST(PlanCommand, JsonHoldsTheTable) {
  const Node out = json_of({kBlock, "--ranks", "8", "--device", "h200"});
  EXPECT_EQ(out.find("parameters_total")->as_int(), 420313088);
  EXPECT_EQ(out.find("parameters_body")->as_int(), 304361472);
  EXPECT_EQ(out.find("kv_bytes_per_token")->as_double(), 12288);
  EXPECT_EQ(out.find("flops_per_token")->as_double(),
            3 * out.find("flops")->find("training_forward")->find("total")->as_double());
  const Node& kv = *out.find("kv");
  EXPECT_EQ(kv.find("groups")->as_list().size(), 24u);
  EXPECT_EQ(kv.find("groups")->as_list()[0].find("entry_tokens")->as_int(), 4);
  EXPECT_EQ(kv.find("local_bytes_per_sequence")->as_double(), 245760);
  const Node& run = *out.find("run");
  EXPECT_EQ(run.find("micro_batches_per_rank")->as_int(), 4);
  EXPECT_EQ(run.find("tokens")->as_int(), int64_t{572000} * 256 * 2048);
  EXPECT_EQ(run.find("precision")->as_string(), "bf16");
}

TEST(PlanCommand, OptionsChangeWhatTheySay) {
  const Node whole = json_of({kBlock});
  EXPECT_EQ(json_of({kBlock, "--bytes-per-element", "0.5"}).find("kv_bytes_per_token")->as_double(),
            3072);
  const auto seconds = [](const Node& plan) {
    return plan.find("run")->find("seconds_estimate")->as_double();
  };
  const Node shorter = json_of({kBlock, "--set", "train.steps=286000"});
  EXPECT_EQ(seconds(shorter), seconds(whole) / 2);
  // Two ranks halve the work and add communication.
  const Node shared = json_of({kBlock, "--set", "train.steps=286000", "--ranks", "2"});
  EXPECT_GT(seconds(shared), seconds(whole) / 4);
  EXPECT_LT(seconds(shared), seconds(shorter));
  const Node match = json_of({kBlock, "--match", "configs/pretrain/vanilla-410m.yaml"});
  const Node& other = *match.find("match");
  EXPECT_EQ(other.find("parameters_total")->as_int(), 405334016);
  EXPECT_GT(other.find("steps_for_equal_flops")->as_int(), 572000);
  const Node scaled = json_of({"configs/pretrain/block-1.0b.yaml", "--match",
                               "configs/pretrain/block-1.4b.yaml", "--scale", "layers"});
  const Node& twin = *scaled.find("match")->find("scaled");
  EXPECT_EQ(twin.find("parameters_total")->as_int(), 1448800256);
  EXPECT_EQ(twin.find("set")->as_list()[0].as_string(), "model.global.layers=12");
}

TEST(PlanCommand, TheTableNamesEveryPart) {
  const Outcome outcome = plan({kBlock, "--match", "configs/pretrain/vanilla-410m.yaml"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const char* text : {"420,313,088", "12,288 B (12.00 KiB)", "557.06 MFLOP products",
                           "optimizer state", "estimate", "train.steps="}) {
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text << "\n" << outcome.out;
  }
}

TEST(PlanCommand, MistakesExitTwoWithFileLineAndKey) {
  const TempDir dir;
  const std::string bad = dir / "bad.yaml";
  test::write_text(bad,
                   "base: " + std::filesystem::absolute("configs/smoke/decoder_mha.yaml").string() +
                       "\ntrain:\n  step: 3\n");
  const auto refuse = [&](const std::string& why, std::vector<std::string> arguments) {
    const Outcome outcome = plan(std::move(arguments));
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
  };
  refuse("bad.yaml:3: train.step: unknown key", {bad});
  refuse("gone.yaml: cannot open", {dir / "gone.yaml"});
  refuse("--device", {kBlock, "--device", "tpu"});
  refuse("--ranks", {kBlock, "--ranks", "0"});
  refuse("needs --match", {kBlock, "--scale", "width"});
  refuse("kv_sharing: an explicit list",
         {"configs/smoke/decoder_explicit.yaml", "--match", kBlock, "--scale", "layers"});
}

TEST(PlanCommand, HelpShowsAnExample) {
  const Outcome outcome = plan({"--help"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.out.find("Example:\n"), std::string::npos) << outcome.out;
}

// A recipe named in the configuration is checked against the architecture before anything runs.
TEST(PlanCommand, ARecipeThatCannotTurnTheModelIsRefused) {
  const std::vector<std::string> base = {"configs/smoke/decoder_gqa.yaml", "--set",
                                         "quantize=configs/quantize/w4_kv4.yaml"};
  EXPECT_EQ(plan(base).status, 0);
  const auto refused = [&](const std::string& setting, const std::vector<std::string>& fragments) {
    auto arguments = base;
    arguments.insert(arguments.end(), {"--set", setting});
    const Outcome outcome = plan(arguments);
    EXPECT_EQ(outcome.status, 2) << setting;
    for (const std::string& fragment : fragments) {
      EXPECT_NE(outcome.err.find(fragment), std::string::npos) << outcome.err;
    }
  };
  refused("model.decoder.attention.head_dim=46", {"quantize: rotation: ", "head_dim = 46"});
  refused("model.decoder.norm.kind=layernorm", {"quantize: rotation: ", "residual"});
  refused("quantize=configs/quantize/none.yaml", {"none.yaml"});
}

}  // namespace
}  // namespace ashlar::cli
