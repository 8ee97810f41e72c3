// The oracle against sums over the queries to come, and what it is told of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/policy/oracle.h"
#include "tests/engine/attention_kinds.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

PolicyOptions options_of(int64_t budget, int64_t sink) {
  PolicyOptions options;
  options.name = "oracle";
  options.budget = budget;
  options.sink = sink;
  return options;
}

TEST(Oracle, KeepsWhatWillBeAttendedTo) {
  const auto groups = kv_groups(test::small_decoder());
  auto future = std::make_shared<FutureAttention>();
  const int64_t rows = 30;
  const auto mass = [&](int64_t query, int64_t row) {
    return probability(Attention::kTies, query, row, 1);
  };
  for (int64_t q = 10; q < rows; q += 1 + q % 2) {
    std::vector<float> p(static_cast<size_t>(q + 1));
    for (size_t r = 0; r < p.size(); ++r) p[r] = mass(q, static_cast<int64_t>(r));
    future->add(2, 1, q, p);
  }
  future->seal();
  const auto policy = make_oracle(options_of(7, 1), groups, future);
  for (int64_t newest = 7; newest < rows; ++newest) {
    std::vector<int32_t> positions(static_cast<size_t>(newest + 1));
    std::iota(positions.rbegin(), positions.rend(), 0);  // any order
    LaneView lane{2, newest, positions};
    lane.place = 2;
    lane.head = 1;
    LaneEdit edit;
    policy->select(std::span(&lane, 1), std::span(&edit, 1));
    std::vector<std::pair<double, int64_t>> order;  // of what may go, the first to go in front
    for (int64_t row = 1; row < newest; ++row) {
      double sum = 0;
      for (int64_t q = 10; q < rows; q += 1 + q % 2) {
        if (q > newest && row <= q) sum += static_cast<double>(mass(q, row));
      }
      order.emplace_back(sum, row);
    }
    std::sort(order.begin(), order.end());
    std::vector<int64_t> expected;
    for (size_t i = 0; i + 7 < positions.size(); ++i) expected.push_back(newest - order[i].second);
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(edit.drop, expected) << newest;
  }
  EXPECT_TRUE(future->after(0, 0, 5).empty()) << "nothing is known of that head";
  EXPECT_TRUE(future->after(2, 1, rows).empty()) << "no query is left";
}

// Queries recorded together count until the last of them is in; rows that only later queries see
// are there as soon as these are ahead.
TEST(Oracle, TheFutureIsTheSumOverWhatWasRecordedBehindTheNewestRow) {
  const Philox rng(12);
  const std::vector<int64_t> stretches = {4, 5, 9, 30, 31};  // last queries
  std::vector<std::vector<float>> recorded;
  FutureAttention future;
  for (size_t s = 0; s < stretches.size(); ++s) {
    std::vector<float> p(static_cast<size_t>(stretches[s] + 1));
    for (size_t r = 0; r < p.size(); ++r) p[r] = static_cast<float>(rng.uniform(100 * s + r));
    future.add(1, 3, stretches[s], p);
    recorded.push_back(std::move(p));
  }
  EXPECT_EQ(future.bytes(), 8 * (5 + 6 + 10 + 31 + 32));
  future.seal();
  EXPECT_EQ(future.bytes(), 8 * 5 * 32);
  for (int64_t newest = 0; newest < 33; ++newest) {
    const auto sums = future.after(1, 3, newest);
    ASSERT_EQ(sums.size(), newest < 31 ? 32u : 0u);
    for (size_t row = 0; row < sums.size(); ++row) {
      double expected = 0;  // later ones first: the order is part of the result
      for (size_t s = stretches.size(); s-- > 0;) {
        if (stretches[s] <= newest || row >= recorded[s].size()) continue;
        expected += static_cast<double>(recorded[s][row]);
      }
      ASSERT_EQ(sums[row], expected) << newest << " " << row;
    }
  }
}

// Broken weights: a row whose future is not a number goes first, and the order stays a strict one.
TEST(Oracle, DropsWhatIsNotANumberFirst) {
  const auto groups = kv_groups(test::small_decoder());
  auto future = std::make_shared<FutureAttention>();
  std::vector<float> p(12, 0.5f);
  p[3] = p[7] = std::numeric_limits<float>::quiet_NaN();
  p[5] = 0;
  future->add(0, 0, 12, p);
  future->seal();
  const auto policy = make_oracle(options_of(9, 0), groups, future);
  std::vector<int32_t> positions(12);
  std::iota(positions.begin(), positions.end(), 0);
  LaneView lane{0, 11, positions};
  LaneEdit edit;
  policy->select(std::span(&lane, 1), std::span(&edit, 1));
  EXPECT_EQ(edit.drop, (std::vector<int64_t>{3, 5, 7}));
}

}  // namespace
}  // namespace ashlar
