#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>
#include <numeric>
#include <set>

#include "core/base/rng.h"
#include "eval/kneser_ney.h"
#include "eval/perplexity.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::reordered;
using test::within;

std::vector<int32_t> random_tokens(uint64_t seed, int64_t n, int64_t vocab) {
  const Philox random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) {
    // Products of uniforms: a few frequent tokens, many rare ones, some never.
    const double u = random.uniform(static_cast<uint64_t>(2 * i)) *
                     random.uniform(static_cast<uint64_t>(2 * i + 1));
    tokens.push_back(static_cast<int32_t>(u * static_cast<double>(vocab)));
  }
  return tokens;
}

/// The formulas of Chen & Goodman by maps and loops.
struct ReferenceKneserNey {
  std::map<std::pair<int32_t, int32_t>, int64_t> bigrams;
  int64_t vocab;
  double d = 0, d1 = 0;

  ReferenceKneserNey(const std::vector<int32_t>& tokens, int64_t size, int32_t start)
      : vocab(size) {
    int32_t previous = start;
    for (int32_t token : tokens) {
      ++bigrams[{previous, token}];
      previous = token;
    }
    const auto discount = [](double n1, double n2) { return n1 == 0 ? 0.5 : n1 / (n1 + 2 * n2); };
    double n1 = 0, n2 = 0;
    for (const auto& [pair, c] : bigrams) {
      n1 += c == 1;
      n2 += c == 2;
    }
    d = discount(n1, n2);
    n1 = n2 = 0;
    for (int32_t w = 0; w < vocab; ++w) {
      n1 += before(w) == 1;
      n2 += before(w) == 2;
    }
    d1 = discount(n1, n2);
  }
  int64_t before(int32_t w) const {
    int64_t n = 0;
    for (const auto& [pair, c] : bigrams) n += pair.second == w;
    return n;
  }
  double p1(int32_t w) const {
    double seen = 0;
    for (int32_t x = 0; x < vocab; ++x) seen += before(x) > 0;
    const auto all = static_cast<double>(bigrams.size());
    return std::max(static_cast<double>(before(w)) - d1, 0.0) / all +
           d1 * seen / all / static_cast<double>(vocab);
  }
  double p(int32_t v, int32_t w) const {
    double total = 0, kinds = 0, count = 0;
    for (const auto& [pair, c] : bigrams) {
      if (pair.first != v) continue;
      total += static_cast<double>(c);
      kinds += 1;
      if (pair.second == w) count = static_cast<double>(c);
    }
    if (total == 0) return p1(w);
    return std::max(count - d, 0.0) / total + d * kinds / total * p1(w);
  }
};

TEST(KneserNey, EqualsTheFormulas) {
  for (const auto& [n, vocab] : {std::pair<int64_t, int64_t>{1, 3}, {40, 7}, {200, 13}}) {
    const std::vector<int32_t> tokens = random_tokens(static_cast<uint64_t>(n), n, vocab);
    const KneserNeyBigram model(tokens, vocab, 0);
    const ReferenceKneserNey reference(tokens, vocab, 0);
    std::vector<double> actual, expected;
    for (int32_t v = 0; v < vocab; ++v) {
      for (int32_t w = 0; w < vocab; ++w) {
        actual.push_back(model.probability(v, w));
        expected.push_back(reference.p(v, w));
      }
    }
    EXPECT_TRUE(within(actual, expected, reordered<double>(8, 1)));
  }
}

TEST(KneserNey, SumsToOneForEveryContext) {
  for (int64_t vocab : {1, 2, 37, 300}) {
    for (int64_t n : {1, 5, 2000}) {
      const KneserNeyBigram model(random_tokens(9, n, vocab), vocab, 0);
      for (int32_t v = 0; v < vocab; ++v) {
        double sum = 0;
        for (int32_t w = 0; w < vocab; ++w) {
          EXPECT_GT(model.probability(v, w), 0);
          sum += model.probability(v, w);
        }
        const double one = 1;
        EXPECT_TRUE(within(std::span<const double>(&sum, 1), std::span<const double>(&one, 1),
                           reordered<double>(static_cast<double>(vocab) + 8, 1)));
      }
    }
  }
}

TEST(KneserNey, BitsAreTheSumOverTheStream) {
  const std::vector<int32_t> train = random_tokens(1, 500, 20), test = random_tokens(2, 100, 20);
  const KneserNeyBigram model(train, 20, 3);
  double expected = 0;
  int32_t previous = 3;
  for (int32_t token : test) {
    expected -= std::log2(model.probability(previous, token));
    previous = token;
  }
  EXPECT_EQ(model.bits(test), expected);
  EXPECT_LT(model.bits(test), 100 * std::log2(20)) << "no better than uniform";
  expect_error(ErrorCode::kData, {"token 20", "vocabulary of 20"}, [] {
    KneserNeyBigram(std::vector<int32_t>{1, 20}, 20, 0);
  });
  expect_error(ErrorCode::kRequest, {"no tokens"},
               [] { KneserNeyBigram(std::vector<int32_t>{}, 20, 0); });
}

/// log p depends on the token and on how many tokens of context it had; remembers the windows.
class FakeScorer : public Scorer {
 public:
  int64_t vocab_size() const override { return 50; }
  int64_t context_length() const override { return 16; }
  std::vector<double> token_log_probabilities(std::span<const int32_t> tokens) override {
    EXPECT_LE(tokens.size(), 16u);
    std::vector<double> out;
    for (size_t i = 0; i < tokens.size(); ++i) {
      out.push_back(log_p(tokens[i], static_cast<int64_t>(i)));
    }
    return out;
  }
  std::vector<double> continuation_log_probabilities(std::span<const int32_t> tokens) override {
    first_tokens.push_back(tokens[0]);
    std::vector<double> out = token_log_probabilities(tokens);
    out.erase(out.begin());
    return out;
  }
  std::vector<float> logits(std::span<const int32_t>) override { return {}; }
  std::vector<int32_t> first_tokens;
  static double log_p(int32_t token, int64_t before) {
    return -0.5 - 0.01 * token - 1.0 / static_cast<double>(before + 1);
  }
};

TEST(Perplexity, EveryTokenIsScoredOnceWithEnoughContext) {
  for (int64_t n : {1, 7, 8, 9, 16, 40, 101}) {
    const std::vector<int32_t> tokens = random_tokens(static_cast<uint64_t>(n), n, 50);
    for (int64_t context : {1, 5, 8, 16}) {
      for (int64_t stride : {int64_t{1}, (context + 1) / 2, context}) {
        FakeScorer scorer;
        PerplexityOptions options;
        options.context = context;
        options.stride = stride;
        const PerplexityResult result = sliding_perplexity(scorer, tokens, 3 * n, options);
        // By the definition: token i belongs to the first window that holds it.
        double expected = 0;
        for (int64_t i = 0; i < n; ++i) {
          int64_t begin = 0;
          while (begin + context <= i) begin += stride;
          expected -= FakeScorer::log_p(tokens[static_cast<size_t>(i)], i - begin);
        }
        EXPECT_TRUE(within(std::span<const double>(&result.nll, 1),
                           std::span<const double>(&expected, 1),
                           reordered<double>(static_cast<double>(n), expected)));
        EXPECT_EQ(result.tokens, n);
        const double mean = result.nll / static_cast<double>(n);
        EXPECT_DOUBLE_EQ(result.perplexity.value, std::exp(mean));
        EXPECT_DOUBLE_EQ(result.bits_per_byte.value, mean / (3 * std::numbers::ln2));
        EXPECT_LE(result.bits_per_byte.low, result.bits_per_byte.value * (1 + 1e-12));
        EXPECT_GE(result.bits_per_byte.high, result.bits_per_byte.value * (1 - 1e-12));
      }
    }
  }
}

// By llama-perplexity's loop: logits at positions N/2 … N−2 of each whole chunk are scored.
TEST(Perplexity, ChunksScoreTheirSecondHalf) {
  for (int64_t context : {3, 8, 15, 16}) {
    const std::vector<int32_t> tokens = random_tokens(9, 3 * context + 1, 50);
    FakeScorer scorer;
    ChunkedPerplexityOptions options;
    options.context = context;
    options.first_token = 7;
    const PerplexityResult result = chunked_perplexity(scorer, tokens, options);
    double expected = 0;
    int64_t count = 0;
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t j = context / 2; j < context - 1; ++j, ++count) {
        expected -= FakeScorer::log_p(tokens[static_cast<size_t>(c * context + j + 1)], j + 1);
      }
    }
    EXPECT_EQ(result.tokens, count);
    EXPECT_DOUBLE_EQ(result.perplexity.value, std::exp(expected / static_cast<double>(count)));
    EXPECT_EQ(scorer.first_tokens, (std::vector<int32_t>{7, 7, 7}));
    EXPECT_EQ(result.rows("t").size(), 1u) << "bits per byte are not defined";
    options.chunks = 2;
    options.first_token.reset();
    EXPECT_EQ(chunked_perplexity(scorer, tokens, options).windows, 2);
    EXPECT_EQ(scorer.first_tokens.back(), tokens[static_cast<size_t>(context)]);
  }
  FakeScorer scorer;
  const std::vector<int32_t> few(7, 1);
  ChunkedPerplexityOptions options;
  options.context = 8;
  expect_error(ErrorCode::kRequest, {"7 tokens", "chunk 8"},
               [&] { chunked_perplexity(scorer, few, options); });
  options.context = 2;
  expect_error(ErrorCode::kRequest, {"context 2", "three"},
               [&] { chunked_perplexity(scorer, few, options); });
}

// Windows of independent tokens: the bootstrap's interval should match the normal one,
// 1.96 · sd / sqrt(n). With 400 windows its own spread is under 20 %.
TEST(Perplexity, IntervalMatchesTheStandardError) {
  const std::vector<int32_t> tokens = random_tokens(4, 400, 50);
  FakeScorer scorer;
  PerplexityOptions options;
  options.context = options.stride = 1;
  const PerplexityResult result = sliding_perplexity(scorer, tokens, 400, options);
  double mean = 0, variance = 0;
  for (int32_t t : tokens) mean -= FakeScorer::log_p(t, 0) / 400;
  for (int32_t t : tokens) variance += std::pow(-FakeScorer::log_p(t, 0) - mean, 2) / 399;
  const double half = 1.96 * std::sqrt(variance / 400);
  const double actual = std::log(result.perplexity.high / result.perplexity.low) / 2;
  EXPECT_TRUE(within(std::span<const double>(&actual, 1), std::span<const double>(&half, 1),
                     test::statistical(0.2 * half, 0, 400)));
  const PerplexityResult again = sliding_perplexity(scorer, tokens, 400, options);
  EXPECT_EQ(again.perplexity.low, result.perplexity.low);
  options.bootstrap = 0;
  const PerplexityResult none = sliding_perplexity(scorer, tokens, 400, options);
  EXPECT_EQ(none.perplexity.low, none.perplexity.value);
}

TEST(Perplexity, WrongRequests) {
  FakeScorer scorer;
  const std::vector<int32_t> tokens{1, 2, 3}, outside{50};
  const auto refuse = [&](const std::vector<std::string>& why, std::span<const int32_t> ids,
                          int64_t context, int64_t stride) {
    PerplexityOptions options;
    options.context = context;
    options.stride = stride;
    expect_error(ErrorCode::kRequest, why, [&] { sliding_perplexity(scorer, ids, 10, options); });
  };
  refuse({"empty"}, {}, 4, 4);
  refuse({"context 17", "1 to 16"}, tokens, 17, 4);
  refuse({"stride 5", "context of 4"}, tokens, 4, 5);
  refuse({"stride 0"}, tokens, 4, 0);
  refuse({"token 50", "vocabulary of 50"}, outside, 4, 4);
}

TEST(Report, HasTheAgreedKeys) {
  const Node node = to_node({{"ppl", "bits_per_byte", 1.5, 10, 1.25, 1.75}});
  const Node& row = node.as_list().at(0);
  EXPECT_EQ(row.find("task")->as_string(), "ppl");
  EXPECT_EQ(row.find("metric")->as_string(), "bits_per_byte");
  EXPECT_EQ(row.find("value")->as_double(), 1.5);
  EXPECT_EQ(row.find("n")->as_int(), 10);
  EXPECT_EQ(row.find("low")->as_double(), 1.25);
  EXPECT_EQ(row.find("high")->as_double(), 1.75);
}

}  // namespace
}  // namespace ashlar
