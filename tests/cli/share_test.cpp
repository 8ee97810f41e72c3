// eval --kv-share: texts that begin alike are read once, and nothing else changes.

#include <gtest/gtest.h>

#include <algorithm>

#include "cli/arm_options.h"
#include "cli/engine_scorer.h"
#include "tests/cli/small_scorer.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"

namespace ashlar::cli {
namespace {

EngineArguments sharing(const std::string& bytes) {
  EngineArguments arguments = one_thread();
  arguments.share = bytes;
  return arguments;
}

/// A system prompt, a few questions behind it, some answers to each: as the texts of choice tasks.
std::vector<ScoreText> questions(int64_t vocab, bool evicts) {
  const auto random = [&](int64_t n, uint64_t seed) { return test::random_tokens(n, vocab, seed); };
  const auto system = random(41, 1);
  std::vector<ScoreText> texts;
  for (uint64_t question = 0; question < 3; ++question) {
    auto context = system;
    for (const int32_t token : random(static_cast<int64_t>(17 + 9 * question), 2 + question)) {
      context.push_back(token);
    }
    for (uint64_t answer = 0; answer < 3; ++answer) {
      ScoreText text;
      text.tokens = context;
      for (const int32_t token : random(6, 20 + 3 * question + answer))
        text.tokens.push_back(token);
      text.scored = std::ssize(context);
      if (evicts) text.prompt = text.scored - 4 * static_cast<int64_t>(answer);
      texts.push_back(std::move(text));
    }
  }
  texts.push_back(texts.front());
  texts.back().scored = 0;  // every token's logits are wanted: all of it is read
  texts.push_back(texts.front());
  texts.back().marker = false;  // another beginning
  return texts;
}

std::vector<std::vector<TextScore>> score(EngineScorer& scorer, std::span<const ScoreText> texts,
                                          size_t batch) {
  std::vector<std::vector<TextScore>> scores(scorer.arms().size());
  for (size_t at = 0; at < texts.size(); at += batch) {
    const auto part = scorer.score_arms(texts.subspan(at, std::min(batch, texts.size() - at)));
    for (size_t arm = 0; arm < part.size(); ++arm) {
      scores[arm].insert(scores[arm].end(), part[arm].begin(), part[arm].end());
    }
  }
  return scores;
}

int64_t shared_tokens(std::span<const TextScore> scores) {
  int64_t sum = 0;
  for (const TextScore& score : scores) sum += score.kv_shared_tokens;
  return sum;
}

std::vector<CacheRequest> arms(const ModelData& model, const std::vector<std::string>& policies) {
  ArmLists lists;
  lists.policies = policies;
  lists.codecs = {"fp16", "q4:q8"};
  const bool only_full = policies == std::vector<std::string>{"none"};
  if (!only_full) lists.budgets = {"50%", "1000"};
  return arms_of(lists, one_thread().cache, model);
}

TEST(Share, NothingChangesButWhatIsRead) {
  for (const char* name : {"decoder_gqa", "decoder_cla2", "decoder_mla", "block_cla2"}) {
    const ModelData model = smoke_model(name);
    const std::vector<std::vector<std::string>> lists = {
        {"none"}, {"none", "streaming", "keydiff", "random", "oracle"}};
    for (const auto& policies : lists) {
      const auto requests = arms(model, policies);
      const auto texts = questions(model.spec.vocab_size, policies.size() > 1);
      EngineScorer plain(model, one_thread(), requests);
      const auto expected = score(plain, texts, 1);
      for (const char* bytes : {"1GiB", "20000", "1"}) {
        for (const size_t batch : {size_t{1}, size_t{4}, texts.size()}) {
          SCOPED_TRACE(fmt::format("{} {} policies, {} bytes, batch {}", name, policies.size(),
                                   bytes, batch));
          EngineScorer scorer(model, sharing(bytes), requests);
          const auto actual = score(scorer, texts, batch);
          for (size_t arm = 0; arm < requests.size(); ++arm) {
            for (size_t t = 0; t < texts.size(); ++t) {
              SCOPED_TRACE(fmt::format("{} text {}", scorer.arms()[arm].label(), t));
              expect_same(actual[arm][t], expected[arm][t]);
            }
            EXPECT_EQ(shared_tokens(expected[arm]), 0);
            if (std::string(bytes) == "1GiB") {
              EXPECT_GT(shared_tokens(actual[arm]), 0);
            }
            if (std::string(bytes) == "1") {
              EXPECT_EQ(shared_tokens(actual[arm]), 0) << "no page fits";
            }
          }
          EXPECT_LE(scorer.engine().shared_bytes(), parse_bytes("bytes", bytes));
        }
      }
    }
  }
}

// A policy alone drops rows when its prompt is in, of which nothing is scored; its pages are kept
// before.
TEST(Share, APolicyAloneSharesToo) {
  const ModelData model = smoke_model("decoder_gqa");
  auto texts = questions(model.spec.vocab_size, true);
  for (ScoreText& text : texts) {
    if (text.scored > 0) text.prompt = text.scored - 10;
  }
  for (const char* policy : {"streaming", "keydiff"}) {
    EngineArguments plain = one_thread();
    plain.cache.policy = policy;
    plain.cache.budget = "20";
    EngineArguments shared = plain;
    shared.share = "1GiB";
    EngineScorer one(model, plain), other(model, shared);
    const auto expected = score(one, texts, 1), actual = score(other, texts, 1);
    for (size_t t = 0; t < texts.size(); ++t) expect_same(actual[0][t], expected[0][t]);
    // Of a question's second and third answers, whole pages of the prompt.
    EXPECT_GE(actual[0][1].kv_shared_tokens, 47);
    EXPECT_GE(actual[0][4].kv_shared_tokens, 47);
  }
}

// Whole pages of 16 rows, one row of which is the marker's, that an earlier text has and that end
// before the last token whose logits nobody wants.
TEST(Share, TheCountIsThatOfThePagesInCommon) {
  const ModelData model = smoke_model("decoder_gqa");
  const auto texts = questions(model.spec.vocab_size, false);
  EngineScorer scorer(model, sharing("1GiB"));
  const auto scores = score(scorer, texts, 1);
  for (size_t t = 0; t < texts.size(); ++t) {
    int64_t expected = 0;
    for (size_t before = 0; before < t; ++before) {
      const auto &a = texts[before], &b = texts[t];
      if (a.marker != b.marker) continue;
      const auto parts = std::ranges::mismatch(a.tokens, b.tokens);
      // The last token of a text is never read.
      const int64_t common =
          std::min<int64_t>(parts.in1 - a.tokens.begin(), std::ssize(a.tokens) - 1);
      const int64_t marker = b.marker ? 1 : 0;
      const int64_t pages = std::min((common + marker) / 16, (b.scored - 1 + marker - 1) / 16);
      if (b.scored > 0 && pages > 0) expected = std::max(expected, 16 * pages - marker);
    }
    EXPECT_EQ(scores[0][t].kv_shared_tokens, expected) << "text " << t;
  }
  EXPECT_EQ(scores[0][1].kv_shared_tokens, 47);
  EXPECT_EQ(scores[0][3].kv_shared_tokens, 31);
}

TEST(Share, RefusedWhereAPolicyCannot) {
  const ModelData model = smoke_model("decoder_gqa");
  const auto refused = [&](const std::vector<std::string>& policies, const char* bytes,
                           std::vector<std::string> fragments) {
    ArmLists lists;
    lists.policies = policies;
    if (policies.back() != "none") lists.budgets = {"64"};
    test::expect_error(ErrorCode::kRequest, fragments, [&] {
      EngineScorer(model, sharing(bytes), arms_of(lists, one_thread().cache, model));
    });
  };
  refused({"none", "h2o"}, "1MiB",
          {"arm 'h2o 64", "--kv-share: under --kv-policy h2o", "keeps scores of rows"});
  refused({"none", "snapkv"}, "1MiB", {"--kv-share: under --kv-policy snapkv"});
  refused({"none", "arkvale"}, "1MiB",
          {"--kv-share: under --kv-policy arkvale", "queries and a backup"});
  refused({"none"}, "0", {"--kv-share: '0' is no positive number of bytes"});
  refused({"none"}, "many", {"--kv-share: 'many'"});
}

}  // namespace
}  // namespace ashlar::cli
