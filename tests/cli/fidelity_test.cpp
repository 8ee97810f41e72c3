#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "cli/engine_fidelity.h"
#include "eval/perplexity.h"
#include "tests/cli/small_scorer.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/tolerance.h"

namespace ashlar::cli {
namespace {

EngineArguments arguments_of(const std::string& policy, const std::string& budget,
                             const std::string& codec = "fp32") {
  EngineArguments arguments;
  arguments.threads = 1;
  arguments.cache.codec = codec;
  arguments.cache.policy = policy;
  arguments.cache.budget = budget;
  arguments.cache.sink = 2;
  return arguments;
}

ScoreText text_of(const ModelData& model, int64_t n, int64_t prompt) {
  ScoreText text;
  text.tokens = test::random_tokens(n, model.spec.vocab_size, 3);
  text.prompt = text.scored = prompt;
  return text;
}

std::vector<FidelityRow> rows_of(const ModelData& model, const EngineArguments& arguments,
                                 const ScoreText& text) {
  EngineScorer scorer(model, arguments);
  std::vector<FidelityRow> rows;
  make_fidelity_probe(scorer)->compare(
      text, [&](size_t, const FidelityRow& row) { rows.push_back(row); });
  return rows;
}

// Nothing evicted and nothing rounded: no difference at all, on both architectures.
TEST(Fidelity, AFullCacheIsTheFullCache) {
  for (const char* name : {"decoder_cla2", "decoder_mla", "decoder_window", "block_cla2"}) {
    SCOPED_TRACE(name);
    const ModelData model = smoke_model(name, 81);
    for (const char* policy : {"none", "h2o"}) {
      const bool none = std::string(policy) == "none";
      const auto rows =
          rows_of(model, arguments_of(policy, none ? "" : "100"), text_of(model, 30, 7));
      ASSERT_EQ(rows.size(), 22u) << "tokens 7 to 28 come one at a time";
      int64_t ran = 0;
      for (const FidelityRow& row : rows) {
        EXPECT_EQ(row.kl, 0);
        EXPECT_TRUE(row.agrees);
        for (const auto& error : row.output_error) EXPECT_EQ(error.value_or(0), 0);
        for (const auto& mass : row.retained_mass) EXPECT_EQ(mass.value_or(1), 1);
        ran += row.output_error[0].has_value() ? 1 : 0;
      }
      // Layers over blocks of 4 run when tokens 7, 11, … 27 complete one.
      EXPECT_EQ(ran, model.spec.block ? 6 : 22);
    }
  }
}

// Zero queries attend evenly, so the mass is the share of rows that are left.
TEST(Fidelity, RetainedMassOfEvenAttentionIsTheShareOfRows) {
  ModelData model = smoke_model("decoder_cla2", 81);
  for (auto& [name, source] : model.tensors) {
    if (name.find("q_proj") == std::string::npos) continue;
    int64_t size = 1;
    for (int64_t d : source.shape()) size *= d;
    source = make_dense(name, source.shape(), std::vector<float>(static_cast<size_t>(size)));
  }
  const int64_t prompt = 20, budget = 9;
  for (const char* policy : {"streaming", "h2o"}) {
    const auto rows =
        rows_of(model, arguments_of(policy, std::to_string(budget)), text_of(model, 50, prompt));
    for (size_t i = 0; i < rows.size(); ++i) {
      // The marker, the tokens before this one, and its own row.
      const double seen = static_cast<double>(1 + prompt) + static_cast<double>(i) + 1;
      const double expected = (static_cast<double>(budget) + 1) / seen;
      for (const auto& mass : rows[i].retained_mass) {
        EXPECT_TRUE(test::within(std::span(&*mass, 1), std::span(&expected, 1),
                                 test::reordered<float>(seen, 1)));
      }
      EXPECT_GT(rows[i].output_error[1].value(), 0);
      EXPECT_GT(rows[i].kl, 0);
    }
  }
}

// A codec rounds rows and loses none.
TEST(Fidelity, CodecsAloneKeepAllMass) {
  const ModelData model = smoke_model("decoder_gqa", 81);
  double last = 0;
  for (const char* codec : {"fp16", "q8", "q4"}) {
    double kl = 0, error = 0;
    for (const FidelityRow& row :
         rows_of(model, arguments_of("none", "", codec), text_of(model, 60, 30))) {
      kl += row.kl;
      error += row.output_error[0].value();
      for (const auto& mass : row.retained_mass) EXPECT_EQ(mass.value(), 1);
    }
    EXPECT_GT(kl, 0);
    EXPECT_GT(error, last) << codec << ": coarser codecs err more";
    last = error;
  }
}

// Arms are compared with one full cache, each as if it were alone.
TEST(Fidelity, ArmsTogetherAreWhatEachIsAlone) {
  for (const char* name : {"decoder_cla2", "block_cla2"}) {
    const ModelData model = smoke_model(name, 81);
    for (const int64_t prompt : {0, 31}) {
      ScoreText text = text_of(model, 60, prompt);
      text.marker = prompt > 0;
      text.scored = std::max<int64_t>(prompt, 1);
      std::vector<CacheRequest> requests;
      for (const auto& [policy, budget, codec] :
           {std::array{"none", "", "q4"}, std::array{"h2o", "40%", "q4"},
            std::array{"streaming", "40%", "q4"}, std::array{"streaming", "24", "q4"}}) {
        requests.push_back(arguments_of(policy, budget, codec).cache);
      }
      EngineScorer scorer(model, arguments_of("none", ""), requests);
      std::vector<std::vector<FidelityRow>> together(requests.size());
      make_fidelity_probe(scorer)->compare(
          text, [&](size_t arm, const FidelityRow& row) { together[arm].push_back(row); });
      for (size_t arm = 0; arm < requests.size(); ++arm) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, prompt, scorer.arms()[arm].label()));
        EngineArguments alone = arguments_of("none", "");
        alone.cache = requests[arm];
        const auto expected = rows_of(model, alone, text);
        ASSERT_EQ(together[arm].size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_EQ(together[arm][i].kl, expected[i].kl);
          EXPECT_EQ(together[arm][i].output_error, expected[i].output_error);
          EXPECT_EQ(together[arm][i].retained_mass, expected[i].retained_mass);
        }
      }
    }
  }
}

TEST(Fidelity, TextsOfOnePromptAreRefused) {
  const ModelData model = smoke_model("decoder_gqa", 81);
  EngineScorer scorer(model, arguments_of("none", ""));
  TokenText text{"ppl:t", test::random_tokens(20, model.spec.vocab_size, 3), 20};
  const auto probe = make_fidelity_probe(scorer);
  test::expect_error(ErrorCode::kRequest, {"ppl:t", "one prompt"},
                     [&] { evaluate_fidelity(*probe, *sliding_perplexity(text, 10, 10), {}); });
  const auto rows = evaluate_fidelity(*probe, *streaming_perplexity(text, 10, 4), {});
  EXPECT_EQ(rows[0].metric, "kl");
  EXPECT_EQ(rows[0].n, 2 * 5);
  EXPECT_EQ(rows[1].value, 1);
}

}  // namespace
}  // namespace ashlar::cli
