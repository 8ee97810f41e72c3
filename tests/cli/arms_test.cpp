// Several arms read together: each bit for bit what it gives alone.

#include <gtest/gtest.h>

#include "cli/arm_options.h"
#include "cli/engine_scorer.h"
#include "cli/shared_prompt.h"
#include "tests/cli/small_scorer.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"

namespace ashlar::cli {
namespace {

// Every policy there is, at budgets that every text below can have.
ArmLists all_arms() {
  ArmLists lists;
  lists.policies = policy_names();
  // Its pages are too large for such budgets; see RecallGoesBesideOthers.
  std::erase(lists.policies, "arkvale");
  lists.budgets = {"90%", "60%", "24", "1000"};
  lists.codecs = {"fp16", "q4:q8"};
  return lists;
}

/// Texts of several lengths, begun in all ways, scored from everywhere.
std::vector<ScoreText> texts_of(int64_t vocab) {
  std::vector<ScoreText> texts;
  for (const int64_t n : {40, 57}) {
    for (const int64_t prompt : {-1, 0, 31, 37}) {
      for (const int64_t scored : {int64_t{0}, int64_t{1}, prompt < 0 ? 7 : prompt, n - 2}) {
        ScoreText text;
        text.tokens = test::random_tokens(n, vocab, static_cast<uint64_t>(n));
        text.scored = scored;
        text.marker = scored == 0 || n != 57;
        text.prompt = prompt;
        texts.push_back(std::move(text));
      }
    }
  }
  return texts;
}

TEST(Arms, TogetherEachIsBitForBitWhatItIsAlone) {
  for (const char* name : {"decoder_gqa", "decoder_cla2", "decoder_mla", "block_cla2"}) {
    const ModelData model = smoke_model(name);
    const EngineArguments arguments = one_thread();
    const auto requests = arms_of(all_arms(), arguments.cache, model);
    const auto texts = texts_of(model.spec.vocab_size);
    EngineScorer together(model, arguments, requests);
    const auto scores = together.score_arms(texts);
    ASSERT_EQ(scores.size(), requests.size());
    ASSERT_EQ(scores.size(), 2 * (1 + 4 * (all_arms().policies.size() - 1)));
    size_t differ = 0;  // from the full cache: the test has something to find
    for (size_t arm = 0; arm < requests.size(); ++arm) {
      EngineArguments alone = arguments;
      alone.cache = requests[arm];
      EngineScorer scorer(model, alone);
      for (size_t t = 0; t < texts.size(); ++t) {
        SCOPED_TRACE(fmt::format("{} {} text {}", name, together.arms()[arm].label(), t));
        const auto expected = scorer.score(std::span(texts).subspan(t, 1));
        expect_same(scores[arm][t], expected[0]);
        differ += expected[0].tokens.back().log_p != scores[0][t].tokens.back().log_p ? 1 : 0;
      }
    }
    EXPECT_GT(differ, texts.size());
  }
}

// A policy that recalls pages keeps queries and backups, so it reads its prompts itself.
TEST(Arms, RecallGoesBesideOthers) {
  const ModelData model = smoke_model("decoder_cla2");
  const EngineArguments arguments = one_thread();
  ArmLists lists = all_arms();
  lists.policies = {"none", "streaming", "arkvale"};
  lists.budgets = {"64", "80"};
  const auto requests = arms_of(lists, arguments.cache, model);
  ScoreText text;
  text.tokens = test::random_tokens(120, model.spec.vocab_size, 5);
  text.prompt = 90;
  text.scored = 91;
  EngineScorer together(model, arguments, requests);
  const auto scores = together.score_arms(std::span(&text, 1));
  size_t differ = 0;
  for (size_t arm = 0; arm < requests.size(); ++arm) {
    SCOPED_TRACE(together.arms()[arm].label());
    EngineArguments alone = arguments;
    alone.cache = requests[arm];
    EngineScorer scorer(model, alone);
    expect_same(scores[arm][0], scorer.score(std::span(&text, 1))[0]);
    differ += scores[arm][0].tokens.back().log_p != scores[0][0].tokens.back().log_p ? 1 : 0;
  }
  EXPECT_EQ(differ, requests.size() - 1) << "the codecs' full caches differ too";
}

// Bytes are counted when the prompt is in, and again at the end.
TEST(Arms, PromptBytesAreThoseOfTheTextThatEndsThere) {
  const ModelData model = smoke_model("decoder_gqa");
  const EngineArguments arguments = one_thread();
  EngineScorer scorer(model, arguments, arms_of(all_arms(), arguments.cache, model));
  ScoreText text;
  text.tokens = test::random_tokens(63, model.spec.vocab_size, 4);
  text.prompt = text.scored = 31;
  const auto whole = scorer.score_arms(std::span(&text, 1));
  text.tokens.resize(32);  // the last one is predicted, not read
  const auto prompt = scorer.score_arms(std::span(&text, 1));
  for (size_t arm = 0; arm < whole.size(); ++arm) {
    EXPECT_EQ(whole[arm][0].kv_prompt_bytes, prompt[arm][0].kv_bytes);
    EXPECT_EQ(prompt[arm][0].kv_prompt_bytes, prompt[arm][0].kv_bytes);
    if (!scorer.arms()[arm].budget.empty()) continue;
    EXPECT_LT(whole[arm][0].kv_prompt_bytes, whole[arm][0].kv_bytes) << "nothing is dropped";
  }
}

TEST(Arms, PromptsAreReadOncePerCodecAndKindOfScores) {
  const ModelData model = smoke_model("decoder_gqa");
  const EngineArguments arguments = one_thread();
  ArmLists lists = all_arms();
  lists.policies = {"none", "streaming", "h2o"};
  EngineScorer scorer(model, arguments, arms_of(lists, arguments.cache, model));
  const ScoreText text = texts_of(model.spec.vocab_size)[8];
  const auto classes = prompt_classes(scorer.caches(text).of_arm);
  ASSERT_EQ(classes.size(), 4u);  // {none, streaming} and h2o, of two codecs
  for (const PromptClass& one : classes) {
    EXPECT_NE(one.reader->policy, nullptr) << "what is read without a policy goes on without one";
  }
}

TEST(Arms, ListsBecomeArms) {
  const ModelData model = smoke_model("decoder_gqa");
  const auto labels = [&](const ArmLists& lists) {
    EngineScorer scorer(model, one_thread(), arms_of(lists, one_thread().cache, model));
    std::vector<std::string> out;
    for (const Arm& arm : scorer.arms()) out.push_back(arm.label() + (arm.full ? " full" : ""));
    return out;
  };
  using Labels = std::vector<std::string>;
  EXPECT_EQ(labels({{"none"}, {}, {"q4"}}), Labels({"none q4 full"}));
  EXPECT_EQ(labels({{"h2o"}, {"25%"}, {"q4"}}), Labels({"h2o 25% q4"}));
  EXPECT_EQ(labels({{"none", "h2o"}, {"50%", "9"}, {"q4", "q8:fp16"}}),
            Labels({"none q4", "none q8:fp16 full", "h2o 50% q4", "h2o 9 q4", "h2o 50% q8:fp16",
                    "h2o 9 q8:fp16"}));
  EXPECT_EQ(labels({{"h2o"}, {"50%", "25%"}, {"q4"}}),
            Labels({"none q4 full", "h2o 50% q4", "h2o 25% q4"}));
  EXPECT_EQ(labels({{"h2o", "none"}, {"50%"}, {"q4"}}), Labels({"h2o 50% q4", "none q4 full"}));
}

// All arms have the pages that were asked for, the full cache too; small ones make small
// budgets of ArkVale possible.
TEST(Arms, PagesAreAsLargeAsAskedFor) {
  const ModelData model = smoke_model("decoder_gqa");
  const auto scorer_of = [&](int64_t page_rows) {
    CacheRequest common = one_thread().cache;
    common.page_rows = page_rows;
    return EngineScorer(model, one_thread(),
                        arms_of({{"none", "arkvale"}, {"20"}, {"q4"}}, common, model));
  };
  ScoreText text;
  text.tokens = test::random_tokens(57, model.spec.vocab_size, 5);
  const auto read = [&](EngineScorer scorer) { return scorer.score_arms(std::span(&text, 1)); };
  EngineScorer named = scorer_of(4);
  for (const Arm& arm : named.arms()) {
    EXPECT_EQ(arm.settings.find("kv_page_rows")->as_int(), 4) << arm.label();
  }
  test::expect_error(ErrorCode::kRequest, {"arm 'arkvale 20 q4' cannot be", "is 2 pages of 7 rows"},
                     [&] { scorer_of(7); });
  const auto four = read(scorer_of(4)), three = read(scorer_of(3));
  EXPECT_NE(four[0][0].tokens.back().log_p, three[0][0].tokens.back().log_p)
      << "rows of the page under way are raw";
}

TEST(Arms, WhatCannotBeIsRefusedWithItsReason) {
  const ModelData model = smoke_model("decoder_gqa");
  const auto refused = [&](const ArmLists& lists, std::vector<std::string> fragments) {
    test::expect_error(ErrorCode::kRequest, fragments, [&] {
      EngineScorer(model, one_thread(), arms_of(lists, one_thread().cache, model));
    });
  };
  refused({{"h2o", "streaming"}, {"64", "2"}, {"q4"}},
          {"arm 'h2o 2 q4' cannot be", "budget of 2 rows", "sink + recent = 2 + 1"});
  refused({{"none", "lru"}, {"64"}, {}}, {"arm 'lru 64", "'lru' is not one of none"});
  refused({{"none", "h2o"}, {}, {}}, {"arm 'h2o", "needs a --kv-budget"});
  refused({{"none"}, {"50%", "25%"}, {}}, {"needs a --kv-policy that evicts"});
  refused({{"h2o"}, {"50%", "50%"}, {}}, {"--kv-budget: 50% is given twice"});
  refused({{"none"}, {}, {"q4", "q5"}}, {"q5"});
  CacheRequest precise = one_thread().cache;
  precise.fp16_first = 16;
  test::expect_error(ErrorCode::kRequest, {"arm 'none fp16' cannot be", "no more precisely"}, [&] {
    EngineScorer(model, one_thread(), arms_of({{"none"}, {}, {"q4", "fp16"}}, precise, model));
  });
  // A budget that only a short text makes too small.
  EngineScorer scorer(model, one_thread(),
                      arms_of({{"none", "h2o"}, {"12.5%"}, {}}, one_thread().cache, model));
  ScoreText text;
  text.tokens = test::random_tokens(16, model.spec.vocab_size, 1);
  test::expect_error(ErrorCode::kRequest, {"arm 'h2o 12.5%", "budget of 2 rows"},
                     [&] { scorer.check(text); });
}

}  // namespace
}  // namespace ashlar::cli
