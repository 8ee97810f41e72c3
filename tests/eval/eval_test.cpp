#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <numeric>
#include <set>

#include "core/base/rng.h"
#include "core/io/atomic_file.h"
#include "eval/evaluate.h"
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

/// log p depends on the token and on how many tokens of context it had; remembers what it read.
class FakeScorer : public Scorer {
 public:
  int64_t vocab_size() const override { return 50; }
  int64_t context_length() const override { return 16; }
  Node settings() const override { return Node::Map{{"scorer", "fake"}}; }
  std::vector<TextScore> score(std::span<const ScoreText> given) override {
    widest = std::max(widest, given.size());
    std::vector<TextScore> out;
    for (const ScoreText& text : given) {
      texts.push_back(text);
      TextScore score;
      for (size_t i = static_cast<size_t>(text.scored); i < text.tokens.size(); ++i) {
        score.tokens.push_back({log_p(text.tokens[i], static_cast<int64_t>(i)), text.tokens[i]});
      }
      score.kv_bytes = static_cast<int64_t>(text.tokens.size());
      out.push_back(std::move(score));
    }
    return out;
  }
  std::vector<float> logits(std::span<const int32_t>) override { return {}; }
  std::vector<ScoreText> texts;
  size_t widest = 0;
  static double log_p(int32_t token, int64_t before) {
    return -0.5 - 0.01 * token - 1.0 / static_cast<double>(before + 1);
  }
};

TokenText text_of(std::vector<int32_t> tokens, int64_t bytes) {
  return {"ppl:t", std::move(tokens), bytes};
}

std::vector<EvalRow> scored(Scorer& scorer, const EvalTask& task, int64_t batch = 1,
                            int64_t resamples = 1000) {
  EvaluateOptions options;
  options.batch = batch;
  options.bootstrap.resamples = resamples;
  return evaluate(scorer, task, options);
}

TEST(Perplexity, EveryTokenIsScoredOnceWithEnoughContext) {
  for (int64_t n : {1, 7, 8, 9, 16, 40, 101}) {
    const std::vector<int32_t> tokens = random_tokens(static_cast<uint64_t>(n), n, 50);
    for (int64_t context : {1, 5, 8, 16}) {
      for (int64_t stride : {int64_t{1}, (context + 1) / 2, context}) {
        FakeScorer scorer;
        const auto task = sliding_perplexity(text_of(tokens, 3 * n), context, stride);
        const std::vector<EvalRow> rows = scored(scorer, *task, 1 + n % 3);
        // By the definition: token i belongs to the first window that holds it.
        double expected = 0;
        for (int64_t i = 0; i < n; ++i) {
          int64_t begin = 0;
          while (begin + context <= i) begin += stride;
          expected -= FakeScorer::log_p(tokens[static_cast<size_t>(i)], i - begin);
        }
        const double mean = expected / static_cast<double>(n);
        const double actual = std::log(rows[0].value);
        EXPECT_TRUE(within(std::span<const double>(&actual, 1), std::span<const double>(&mean, 1),
                           reordered<double>(static_cast<double>(n) + 8, mean)));
        EXPECT_EQ(rows[0].metric, "perplexity");
        EXPECT_EQ(rows[0].n, n);
        EXPECT_EQ(rows[1].metric, "bits_per_byte");
        EXPECT_DOUBLE_EQ(rows[1].value, actual / (3 * std::numbers::ln2));
        EXPECT_LE(rows[1].low, rows[1].value * (1 + 1e-12));
        EXPECT_GE(rows[1].high, rows[1].value * (1 - 1e-12));
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
    const std::vector<EvalRow> rows =
        scored(scorer, *chunked_perplexity(text_of(tokens, 9), options));
    double expected = 0;
    int64_t count = 0;
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t j = context / 2; j < context - 1; ++j, ++count) {
        expected -= FakeScorer::log_p(tokens[static_cast<size_t>(c * context + j + 1)], j + 1);
      }
    }
    ASSERT_EQ(rows.size(), 1u) << "bits per byte are not defined";
    EXPECT_EQ(rows[0].n, count);
    EXPECT_DOUBLE_EQ(rows[0].value, std::exp(expected / static_cast<double>(count)));
    for (const ScoreText& text : scorer.texts) {
      EXPECT_EQ(text.tokens[0], 7);
      EXPECT_FALSE(text.marker);
    }
    options.chunks = 2;
    options.first_token.reset();
    const auto two = chunked_perplexity(text_of(tokens, 9), options);
    EXPECT_EQ(two->size(), 2);
    EXPECT_EQ(two->texts(1)[0].tokens[0], tokens[static_cast<size_t>(context)]);
  }
  ChunkedPerplexityOptions options;
  options.context = 8;
  expect_error(ErrorCode::kRequest, {"7 tokens", "chunk 8"},
               [&] { chunked_perplexity(text_of(std::vector<int32_t>(7, 1), 9), options); });
  options.context = 2;
  expect_error(ErrorCode::kRequest, {"context 2", "three"}, [&] {
    chunked_perplexity(text_of({1, 2, 3}, 9), options);
  });
}

TEST(Perplexity, StreamsBehindEachSegmentsPrompt) {
  for (int64_t n : {4, 15, 16, 17, 20, 48}) {
    for (int64_t prompt : {0, 3}) {
      const std::vector<int32_t> tokens = random_tokens(static_cast<uint64_t>(n), n, 50);
      FakeScorer scorer;
      const std::vector<EvalRow> rows =
          scored(scorer, *streaming_perplexity(text_of(tokens, n), 16, prompt));
      double expected = 0;
      int64_t count = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (i % 16 < prompt) continue;
        expected -= FakeScorer::log_p(tokens[static_cast<size_t>(i)], i % 16);
        ++count;
      }
      EXPECT_EQ(rows[0].n, count);
      EXPECT_DOUBLE_EQ(rows[0].value, std::exp(expected / static_cast<double>(count)));
      for (const ScoreText& text : scorer.texts) {
        EXPECT_EQ(text.prompt, prompt);
        EXPECT_EQ(text.scored, prompt);
        EXPECT_TRUE(text.marker);
      }
    }
  }
  expect_error(ErrorCode::kRequest, {"prompt of 16", "context of 16"}, [] {
    streaming_perplexity(text_of({1, 2}, 2), 16, 16);
  });
  expect_error(ErrorCode::kRequest, {"2 tokens", "prompt of 2"}, [] {
    streaming_perplexity(text_of({1, 2}, 2), 16, 2);
  });
}

// Positions 0…63, 64…127, 128…255: every scored token counts in one range.
TEST(Perplexity, RangesOfPositionsCoverTheSegment) {
  const std::vector<int32_t> tokens = random_tokens(3, 300, 50);
  const auto task = streaming_perplexity(text_of(tokens, 300), 200, 10);
  std::vector<double> nll(3), count(3);
  for (int64_t item = 0; item < task->size(); ++item) {
    const ScoreText text = task->texts(item)[0];
    TextScore score;
    for (size_t i = 10; i < text.tokens.size(); ++i) {
      score.tokens.push_back({-static_cast<double>(i), 0});
      const size_t range = i < 64 ? 0 : i < 128 ? 1 : 2;
      nll[range] += static_cast<double>(i);
      count[range] += 1;
    }
    const std::vector<double> values = task->measure(item, std::span(&score, 1));
    for (size_t r = 0; r < 3; ++r) {
      nll[r] -= values[2 + 2 * r];
      count[r] -= values[3 + 2 * r];
    }
  }
  EXPECT_EQ(nll, std::vector<double>(3));
  EXPECT_EQ(count, std::vector<double>(3));
  const std::vector<Metric> metrics = task->metrics();
  ASSERT_EQ(metrics.size(), 5u);
  EXPECT_EQ(metrics[2].name, "perplexity[10…63]");
  EXPECT_EQ(metrics[4].name, "perplexity[128…199]");
}

// Windows of independent tokens: the bootstrap's interval should match the normal one,
// 1.96 · sd / sqrt(n). With 400 windows its own spread is under 20 %.
TEST(Perplexity, IntervalMatchesTheStandardError) {
  const std::vector<int32_t> tokens = random_tokens(4, 400, 50);
  FakeScorer scorer;
  const auto task = sliding_perplexity(text_of(tokens, 400), 1, 1);
  const EvalRow row = scored(scorer, *task)[0];
  double mean = 0, variance = 0;
  for (int32_t t : tokens) mean -= FakeScorer::log_p(t, 0) / 400;
  for (int32_t t : tokens) variance += std::pow(-FakeScorer::log_p(t, 0) - mean, 2) / 399;
  const double half = 1.96 * std::sqrt(variance / 400);
  const double actual = std::log(row.high / row.low) / 2;
  EXPECT_TRUE(within(std::span<const double>(&actual, 1), std::span<const double>(&half, 1),
                     test::statistical(0.2 * half, 0, 400)));
  EXPECT_EQ(scored(scorer, *task)[0].low, row.low);
  const EvalRow none = scored(scorer, *task, 1, 0)[0];
  EXPECT_EQ(none.low, none.value);
}

TEST(Perplexity, WrongRequests) {
  FakeScorer scorer;
  const auto refuse = [&](const std::vector<std::string>& why, std::vector<int32_t> ids,
                          int64_t context, int64_t stride) {
    expect_error(ErrorCode::kRequest, why,
                 [&] { scored(scorer, *sliding_perplexity(text_of(ids, 10), context, stride)); });
  };
  refuse({"empty"}, {}, 4, 4);
  refuse({"item 0", "17 tokens", "context of 16"}, std::vector<int32_t>(20, 1), 17, 4);
  refuse({"stride 5", "context of 4"}, {1, 2, 3}, 4, 5);
  refuse({"stride 0"}, {1, 2, 3}, 4, 0);
  refuse({"item 0", "token 50", "vocabulary of 50"}, {50}, 4, 4);
}

/// Items of 1, 2, 1, 2, … texts of three tokens; the numbers are the item's own and 2.
class PlainTask : public EvalTask {
 public:
  explicit PlainTask(int64_t items) : items_(items) {}
  const std::string& name() const override { return name_; }
  Node settings() const override { return Node::Map{{"items", items_}}; }
  int64_t size() const override { return items_; }
  std::vector<ScoreText> texts(int64_t item) const override {
    ScoreText text;
    text.tokens = {static_cast<int32_t>(item), 1, 2};
    return std::vector<ScoreText>(static_cast<size_t>(1 + item % 2), text);
  }
  std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const override {
    EXPECT_EQ(scores.size(), static_cast<size_t>(1 + item % 2));
    for (const TextScore& score : scores) EXPECT_EQ(score.tokens[0].best, item);
    return {static_cast<double>(item), 2};
  }
  std::vector<Metric> metrics() const override {
    return {{"all", "mean", 0, items_, 0}, {"second half", "half", items_ / 2, items_, 0, 1}};
  }

 private:
  std::string name_ = "plain";
  int64_t items_;
};

TEST(Evaluate, BatchesTextsWhateverItemTheyBelongTo) {
  for (int64_t batch : {1, 2, 3, 7, 100}) {
    FakeScorer scorer;
    const std::vector<EvalRow> rows = scored(scorer, PlainTask(9), batch);
    EXPECT_EQ(scorer.texts.size(), 13u);
    EXPECT_LE(scorer.widest, static_cast<size_t>(batch));
    EXPECT_EQ(rows[0].value, 4);
    EXPECT_EQ(rows[0].n, 9);
    EXPECT_EQ(rows[0].kv_bytes, 3);
    EXPECT_EQ(rows[1].task, "second half");
    EXPECT_EQ(rows[1].value, 3);  // Σ 4…8 over 5 items of 2
    EXPECT_EQ(rows[1].n, 10);
    EXPECT_EQ(rows[0].settings.find("scorer")->as_string(), "fake");
    EXPECT_EQ(rows[0].settings.find("items")->as_int(), 9);
  }
  FakeScorer scorer;
  expect_error(ErrorCode::kRequest, {"plain", "no items"}, [&] { scored(scorer, PlainTask(0)); });
}

TEST(Evaluate, GoesOnWhereAnEarlierRunEnded) {
  const test::TempDir folder;
  const auto path = folder.path() / "items.jsonl";
  std::vector<EvalRow> whole;
  {
    FakeScorer scorer;
    ItemLog log(path);
    EvaluateOptions options;
    options.log = &log;
    whole = evaluate(scorer, PlainTask(9), options);
  }
  const std::string full = read_file(path);
  // Cut anywhere, the rest is run again and nothing else.
  for (size_t cut : {size_t{0}, size_t{5}, full.find('\n') + 1, full.size() / 2, full.size() - 1}) {
    write_file_atomically(path, full.substr(0, cut));
    const auto lines = std::count(full.begin(), full.begin() + static_cast<long>(cut), '\n');
    FakeScorer scorer;
    ItemLog log(path);
    EvaluateOptions options;
    options.log = &log;
    options.batch = 2;
    const std::vector<EvalRow> rows = evaluate(scorer, PlainTask(9), options);
    EXPECT_EQ(rows[0].value, whole[0].value);
    EXPECT_EQ(rows[0].low, whole[0].low);
    EXPECT_EQ(rows[1].value, whole[1].value);
    const int64_t known = std::max<int64_t>(0, lines - 1);
    EXPECT_EQ(static_cast<int64_t>(scorer.texts.size()), 13 - known - known / 2) << cut;
    const std::string after = read_file(path);
    EXPECT_EQ(std::count(after.begin(), after.end(), '\n'), 10);
  }
}

TEST(Evaluate, RefusesALogOfAnotherRun) {
  const test::TempDir folder;
  const auto path = folder.path() / "items.jsonl";
  FakeScorer scorer;
  {
    ItemLog log(path);
    EvaluateOptions options;
    options.log = &log;
    evaluate(scorer, PlainTask(3), options);
    expect_error(ErrorCode::kRequest, {"items.jsonl", "another process"}, [&] { ItemLog{path}; });
    expect_error(ErrorCode::kRequest, {"items.jsonl", "plain", "items: 3, now 4"},
                 [&] { evaluate(scorer, PlainTask(4), options); });
  }
  for (const char* text : {"{}\n", "[1]\n", "{\"task\": \"a\", \"item\": -1}\n", "nothing\n",
                           "{\"task\": \"a\", \"item\": 1, \"values\": [null], "
                           "\"kv_bytes\": 0, \"seconds\": 0}\n"}) {
    write_file_atomically(path, std::string(text));
    EXPECT_THROW(ItemLog{path}, Error) << text;
  }
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
