#include "data/tasks/mqar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "data/tasks/draws.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::within;

// Solves an example as a reader would: every answer is what stood behind the key when it was last
// seen before the questions.
std::map<int32_t, int32_t> read_pairs(const TaskExample& e) {
  std::map<int32_t, int32_t> value;
  for (size_t i = 0; i < static_cast<size_t>(e.context); i += 2) {
    value[e.tokens[i]] = e.tokens[i + 1];
  }
  return value;
}

void expect_solvable(const TaskExample& e, int64_t length, int64_t pairs, int64_t vocab) {
  ASSERT_EQ(std::ssize(e.tokens), length);
  ASSERT_EQ(std::ssize(e.answer), length);
  const auto value = read_pairs(e);
  ASSERT_EQ(std::ssize(value), pairs) << "keys must differ";
  std::set<int32_t> asked;
  for (const auto& [k, v] : value) {
    EXPECT_GE(k, 1);
    EXPECT_LT(k, vocab / 2);
    EXPECT_GE(v, vocab / 2);
    EXPECT_LT(v, vocab);
  }
  for (size_t i = 0; i < e.tokens.size(); ++i) {
    EXPECT_GE(e.tokens[i], 0);
    EXPECT_LT(e.tokens[i], vocab);
    if (!e.answer[i]) continue;
    ASSERT_GT(static_cast<int64_t>(i), e.context);
    EXPECT_EQ(i % 2, 1u) << "queries stand at even places";
    const auto found = value.find(e.tokens[i - 1]);
    ASSERT_NE(found, value.end());
    EXPECT_EQ(e.tokens[i], found->second);
    EXPECT_TRUE(asked.insert(e.tokens[i - 1]).second) << "every key is asked once";
  }
  EXPECT_EQ(std::ssize(asked), pairs);
}

TEST(Mqar, AnswersAreWhatTheTextSays) {
  for (const auto& [length, pairs, vocab] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {64, 4, 8192}, {64, 16, 8192}, {16, 4, 10}, {256, 64, 8192}, {4, 1, 4}}) {
    const auto task = make_mqar(Node::Map{{"length", length}, {"pairs", pairs}, {"vocab", vocab}});
    EXPECT_EQ(task->max_tokens(), length);
    EXPECT_EQ(task->vocab_size(), vocab);
    for (uint64_t i = 0; i < 50; ++i) {
      const TaskExample e = task->example(i);
      EXPECT_EQ(e.context, 2 * pairs);
      expect_solvable(e, length, pairs, vocab);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Mqar, IsAFunctionOfSeedAndIndex) {
  const auto a = make_mqar(Node::Map{{"seed", 7}}), b = make_mqar(Node::Map{{"seed", 7}});
  const auto other = make_mqar(Node::Map{{"seed", 8}});
  const TaskExample third = a->example(3);
  a->example(9);
  EXPECT_EQ(a->example(3).tokens, third.tokens);
  EXPECT_EQ(b->example(3).tokens, third.tokens);
  EXPECT_NE(b->example(4).tokens, third.tokens);
  EXPECT_NE(other->example(3).tokens, third.tokens);
  EXPECT_EQ(a->settings().find("seed")->as_int(), 7);
  EXPECT_EQ(a->settings().find("vocab")->as_int(), 8192);
}

// The first drawn place follows p(g) ∝ (g+1)^(a−1) itself; with 20,000 draws the share of a place
// of probability p lies within 5·sqrt(p(1−p)/n).
TEST(Mqar, FirstQueryFollowsThePowerLaw) {
  constexpr int64_t kExamples = 20000, kPlaces = 28;
  for (const double a : {0.01, 1.0}) {
    const auto task = make_mqar(Node::Map{{"power_a", a}, {"filler", "zero"}});
    std::vector<double> share(kPlaces, 0), law(kPlaces);
    for (uint64_t i = 0; i < kExamples; ++i) {
      const TaskExample e = task->example(i);
      size_t place = static_cast<size_t>(e.context);
      while (e.tokens[place] != e.tokens[0]) place += 2;  // the first pair is drawn first
      share[(place - static_cast<size_t>(e.context)) / 2] += 1.0 / kExamples;
    }
    for (int64_t g = 0; g < kPlaces; ++g) {
      law[static_cast<size_t>(g)] = std::pow(static_cast<double>(g + 1), a - 1);
    }
    const double total = std::accumulate(law.begin(), law.end(), 0.0);
    for (int64_t g = 0; g < kPlaces; ++g) {
      const double p = law[static_cast<size_t>(g)] / total;
      const double actual = share[static_cast<size_t>(g)];
      EXPECT_TRUE(within(std::span<const double>(&actual, 1), std::span<const double>(&p, 1),
                         test::statistical(5 * std::sqrt(p * (1 - p) / kExamples), 0, kExamples)))
          << "place " << g;
    }
  }
}

TEST(Mqar, FillersAreZeroOrUniform) {
  const auto zero = make_mqar(Node::Map{{"filler", "zero"}})->example(0);
  const int64_t zeros = std::count(zero.tokens.begin(), zero.tokens.end(), 0);
  EXPECT_EQ(zeros, 64 - 16);
  // 64 − 16 fillers of 1,000 examples: their mean lies within 5 standard errors of V/2.
  const auto random = make_mqar(Node::Map{});
  double sum = 0;
  int64_t n = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    const TaskExample e = random->example(i);
    for (size_t t = static_cast<size_t>(e.context); t < e.tokens.size(); ++t) {
      const bool query = t % 2 == 0 && e.answer[t + 1];
      if (query || e.answer[t]) continue;
      sum += e.tokens[t];
      ++n;
    }
  }
  EXPECT_EQ(n, 48000);
  const double mean = sum / static_cast<double>(n), expected = 8191.0 / 2;
  const double error = 8192 / std::sqrt(12.0 * static_cast<double>(n));
  EXPECT_TRUE(within(std::span<const double>(&mean, 1), std::span<const double>(&expected, 1),
                     test::statistical(5 * error, 0, n)));
}

TEST(Mqar, UpdatesAskForTheLaterValue) {
  for (const int64_t vocab : {16, 8192}) {  // with eight values the old one is often drawn again
    const auto task = make_mqar(Node::Map{{"updates", 3}, {"pairs", 6}, {"vocab", vocab}});
    for (uint64_t i = 0; i < 50; ++i) {
      const TaskExample e = task->example(i);
      EXPECT_EQ(e.context, 2 * (6 + 3));
      std::map<int32_t, int32_t> before;
      for (size_t t = 0; t < 12; t += 2) before[e.tokens[t]] = e.tokens[t + 1];
      std::set<int32_t> updated;
      for (size_t t = 12; t < 18; t += 2) {
        EXPECT_TRUE(updated.insert(e.tokens[t]).second);
        ASSERT_TRUE(before.contains(e.tokens[t]));
        EXPECT_NE(before[e.tokens[t]], e.tokens[t + 1]);
        EXPECT_GE(e.tokens[t + 1], vocab / 2);
        EXPECT_LT(e.tokens[t + 1], vocab);
      }
      expect_solvable(e, 64, 6, vocab);
    }
  }
  const TaskExample twice = make_mqar(Node::Map{{"passes", 2}})->example(0);
  EXPECT_EQ(twice.context, 16);
  EXPECT_TRUE(std::equal(twice.tokens.begin(), twice.tokens.begin() + 8, twice.tokens.begin() + 8));
}

TEST(Mqar, PublishedConfigurations) {
  const auto task = make_mqar(Node::Map{{"config", "2026_train"}});
  EXPECT_EQ(task->max_tokens(), 256);
  std::map<std::pair<int64_t, int64_t>, int> seen;
  for (uint64_t i = 0; i < 90; ++i) {
    const TaskExample e = task->example(i);
    ++seen[{std::ssize(e.tokens), e.context / 2}];
  }
  const std::map<std::pair<int64_t, int64_t>, int> expected = {
      {{64, 4}, 50}, {{128, 8}, 10}, {{256, 16}, 10}, {{256, 32}, 10}, {{256, 64}, 10}};
  EXPECT_EQ(seen, expected);
  const auto hard = make_mqar(Node::Map{{"config", "2026_test"}});
  EXPECT_EQ(hard->max_tokens(), 1024);
  expect_solvable(hard->example(6), 1024, 256, 8192);
}

TEST(Mqar, WrongOptions) {
  const auto refuse = [](const std::vector<std::string>& why, const Node& node) {
    expect_error(ErrorCode::kRequest, why, [&] { make_mqar(node); });
  };
  refuse({"lenght", "unknown key", "length"}, Node::Map{{"lenght", 64}});
  refuse({"length", "even"}, Node::Map{{"length", 65}});
  refuse({"length", "64", "17 pairs", "68"}, Node::Map{{"pairs", 17}});
  refuse({"vocab", "keys"}, Node::Map{{"vocab", 8}});
  refuse({"updates", "more than the 4"}, Node::Map{{"updates", 5}});
  refuse({"updates", "passes"}, Node::Map{{"updates", 1}, {"passes", 2}});
  refuse({"config", "figure3", "figure2"}, Node::Map{{"config", "figure3"}});
  refuse({"pairs", "config"}, Node::Map{{"config", "figure2"}, {"pairs", 4}});
  refuse({"pairs", "between 1"}, Node::Map{{"pairs", 0}});
  refuse({"seed", "integer"}, Node::Map{{"seed", "one"}});
  expect_error(ErrorCode::kRequest, {"'mqra'", "mqar"},
               [] { make_generator("mqra", Node(), nullptr); });
}

TEST(Draws, DistinctAreDistinctAndCoverTheRange) {
  Draws draws(1, 2, 3);
  auto all = draws.distinct(5, 25, 20);
  EXPECT_FALSE(std::is_sorted(all.begin(), all.end()));
  std::sort(all.begin(), all.end());
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], 5 + i);
  EXPECT_TRUE(draws.distinct(0, 9, 0).empty());
}

}  // namespace
}  // namespace ashlar
