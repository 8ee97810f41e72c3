// Training side and engine behind the Scorer interface, for every configs/smoke/*.yaml.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "cli/engine_scorer.h"
#include "cli/train_scorer.h"
#include "core/config/config.h"
#include "tests/support/logit_bound.h"
#include "tests/support/random_model.h"
#include "tests/support/tolerance.h"

namespace ashlar::cli {
namespace {
namespace fs = std::filesystem;

std::map<std::string, ModelData> smoke_models() {
  std::map<std::string, ModelData> models;
  for (const auto& entry : fs::directory_iterator("configs/smoke")) {
    if (entry.path().filename() == "common.yaml") continue;
    const ModelSpec spec = model_spec_from_config(*load_yaml(entry.path()).find("model"));
    models.emplace(entry.path().stem().string(), test::random_model(spec, 71));
  }
  return models;
}

EngineArguments arguments_of(const std::string& policy = "none", const std::string& budget = "") {
  EngineArguments arguments;
  arguments.threads = 2;
  arguments.cache.codec = "fp32";
  arguments.cache.policy = policy;
  arguments.cache.budget = budget;
  arguments.cache.sink = 2;
  arguments.cache.recent = 4;
  return arguments;
}

/// Texts of several lengths, begun in all ways, scored from everywhere.
std::vector<ScoreText> texts_of(int64_t vocab, int64_t prompt) {
  std::vector<ScoreText> texts;
  for (int64_t n : {2, 5, 50}) {
    for (int64_t scored : {int64_t{0}, int64_t{1}, n / 2, n - 1}) {
      ScoreText text;
      text.tokens = test::random_tokens(n, vocab, static_cast<uint64_t>(n));
      text.scored = scored;
      text.marker = scored == 0 || n != 5;
      text.prompt = prompt;
      texts.push_back(std::move(text));
    }
  }
  return texts;
}

std::vector<double> log_ps(const std::vector<TextScore>& scores) {
  std::vector<double> out;
  for (const TextScore& score : scores) {
    for (const TokenScore& token : score.tokens) out.push_back(token.log_p);
  }
  return out;
}

std::vector<int32_t> bests(const std::vector<TextScore>& scores) {
  std::vector<int32_t> out;
  for (const TextScore& score : scores) {
    for (const TokenScore& token : score.tokens) out.push_back(token.best);
  }
  return out;
}

// A log-probability is a logit less a log-sum-exp of logits: twice a logit's error.
TEST(Scorers, TrainingSideAndEngineAgree) {
  for (const auto& [name, model] : smoke_models()) {
    SCOPED_TRACE(name);
    EngineScorer engine(model, arguments_of());
    const auto train = make_train_scorer(model, 1);
    const auto texts = texts_of(model.spec.vocab_size, -1);
    const auto actual = engine.score(texts), expected = train->score(texts);
    EXPECT_TRUE(test::within(log_ps(actual), log_ps(expected),
                             test::logit_bound(model.spec, log_ps(expected), 8)));
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto scored = texts[i].tokens.size() - static_cast<size_t>(texts[i].scored);
      EXPECT_EQ(actual[i].tokens.size(), scored);
      EXPECT_EQ(expected[i].tokens.size(), scored);
      EXPECT_GT(actual[i].kv_bytes, 0);
    }
  }
}

// The most likely token is the one whose own score is highest.
TEST(Scorers, BestIsTheMostLikelyToken) {
  const ModelData model = smoke_models().at("decoder_gqa");
  EngineScorer engine(model, arguments_of());
  const auto train = make_train_scorer(model, 1);
  const auto prefix = test::random_tokens(9, model.spec.vocab_size, 5);
  for (Scorer* scorer : {static_cast<Scorer*>(&engine), train.get()}) {
    std::vector<ScoreText> texts;
    for (int64_t token = 0; token < model.spec.vocab_size; ++token) {
      ScoreText text;
      text.tokens = prefix;
      text.tokens.push_back(static_cast<int32_t>(token));
      text.scored = 9;
      texts.push_back(std::move(text));
    }
    const auto scores = scorer->score(texts);
    double sum = 0;
    for (size_t t = 0; t < scores.size(); ++t) {
      sum += std::exp(scores[t].tokens[0].log_p);
      EXPECT_LE(scores[t].tokens[0].log_p,
                scores[static_cast<size_t>(scores[0].tokens[0].best)].tokens[0].log_p);
    }
    const double one = 1;
    EXPECT_TRUE(test::within(std::span(&sum, 1), std::span(&one, 1),
                             test::reordered<float>(static_cast<double>(scores.size()), 1)));
  }
}

// Invariant 3 through the scorer: together = alone, streamed = one prompt, bit for bit.
TEST(Scorers, ReadingTextsInAnotherWayChangesNoBit) {
  for (const auto& [name, model] : smoke_models()) {
    SCOPED_TRACE(name);
    EngineScorer engine(model, arguments_of());
    const auto texts = texts_of(model.spec.vocab_size, -1);
    const auto together = engine.score(texts);
    for (int64_t prompt : {-1, 0, 3}) {
      const auto streamed = engine.score(texts_of(model.spec.vocab_size, prompt));
      EXPECT_TRUE(test::within(log_ps(streamed), log_ps(together), test::exact()));
      EXPECT_EQ(bests(streamed), bests(together));
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto alone = engine.score(std::span(texts).subspan(i, 1));
      EXPECT_TRUE(test::within(log_ps(alone), log_ps({together[i]}), test::exact()));
    }
  }
}

// Invariant 5, and that a policy acts on what is streamed and on nothing else.
TEST(Scorers, PoliciesActOnlyOnStreamedTokens) {
  for (const auto& [name, model] : smoke_models()) {
    SCOPED_TRACE(name);
    bool governed = false;
    for (const KvGroup& group : kv_groups(model.spec)) {
      governed = governed || (group.lifetime == KvLifetime::kSequence && group.window == 0);
    }
    if (!governed) continue;
    const int64_t vocab = model.spec.vocab_size;
    EngineScorer full(model, arguments_of());
    const auto expected = full.score(texts_of(vocab, -1));
    for (const char* policy : {"streaming", "h2o"}) {
      const std::string budget = std::to_string(8 * model.spec.block_length());
      EngineScorer tight(model, arguments_of(policy, budget));
      EngineScorer roomy(model, arguments_of(policy, "1000"));
      EXPECT_EQ(log_ps(roomy.score(texts_of(vocab, 0))), log_ps(expected));
      EXPECT_EQ(log_ps(tight.score(texts_of(vocab, -1))), log_ps(expected));
      const auto texts = texts_of(vocab, 3);
      const auto alone = tight.score(std::span(texts).subspan(8, 1));
      const auto streamed = tight.score(texts);
      EXPECT_EQ(log_ps(alone), log_ps({streamed[8]}));
      if (8 * model.spec.block_length() < 50) {
        EXPECT_NE(log_ps(streamed), log_ps(expected));
      }
    }
  }
}

}  // namespace
}  // namespace ashlar::cli
