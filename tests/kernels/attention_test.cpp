#include "kernels/attention.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/kernels/attention_support.h"

namespace ashlar::test {
namespace {

class Attention : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, Attention, ::testing::ValuesIn(supported_isas()), isa_test_name);

Collected collect_all(const AttentionCase& c, uint32_t start = 0) {
  return Collected(c.slots(), start);
}

TEST_P(Attention, MatchesTheDoubleReference) {
  int index = 0;
  for (const AttentionCase& c : attention_cases()) {
    const Problem problem(kernels(), c);
    Bound bound = attention_bound(c);
    bound.absolute += weights_bound(c).absolute;
    bound.reason += ", weights " + weights_bound(c).reason;
    EXPECT_TRUE(within(problem.run(0, c.rows), problem.reference(), bound)) << "case " << index;
    ++index;
  }
}

TEST_P(Attention, ScoresAndCountsMatchTheDoubleReference) {
  int index = 0;
  for (const AttentionCase& c : attention_cases()) {
    const Problem problem(kernels(), c);
    const Bound one = attention_bound(c);
    for (const int64_t from : {int64_t{0}, c.rows / 2, c.rows}) {
      Collected got = collect_all(c);
      got.from = from;
      problem.run(0, c.rows, &got);
      std::vector<double> scores(got.low.size()), low(scores), high(scores);
      for (int64_t r = from; r < c.rows; ++r) {
        const int64_t visible = c.slots() - c.rows + 1 + r;
        const int64_t first = c.window > 0 ? std::max<int64_t>(0, visible - c.window) : 0;
        std::vector<double> mean(scores.size());
        for (int64_t h = 0; h < c.group; ++h) {
          const auto p = problem.probabilities(r, h);
          for (size_t j = 0; j < p.size(); ++j) {
            scores[j] += p[j];
            mean[j] += p[j] / static_cast<double>(c.group);
          }
        }
        const double level = 1.0 / static_cast<double>(visible - first);
        for (int64_t j = first; j < visible; ++j) {
          const double m = mean[static_cast<size_t>(j)];
          low[static_cast<size_t>(j)] += m < level - one.absolute;
          high[static_cast<size_t>(j)] += m < level + one.absolute;
        }
      }
      EXPECT_TRUE(within(got.scores(), scores, score_bound(c, c.rows))) << "case " << index;
      for (size_t j = 0; j < low.size(); ++j) {
        ASSERT_GE(got.counts[j], low[j]) << "case " << index << " slot " << j;
        ASSERT_LE(got.counts[j], high[j]) << "case " << index << " slot " << j;
      }
    }
    ++index;
  }
}

TEST_P(Attention, CountsNeedNoScoresAndTheOtherWayRound) {
  const AttentionCase c{{{CodecKind::kQ4, CodecKind::kQ4, 100}}, 9, 5, 2, 16, 16};
  const Problem problem(kernels(), c);
  Collected both = collect_all(c, 2), scores = both, counts = both;
  scores.counts.clear();
  counts.low.clear();
  problem.run(0, c.rows, &both);
  problem.run(0, c.rows, &scores);
  problem.run(0, c.rows, &counts);
  EXPECT_EQ(scores.scores(), both.scores());
  EXPECT_EQ(counts.counts, both.counts);
}

TEST_P(Attention, RowsHeadsAndScoresDoNotShow) {
  for (const AttentionCase& c : attention_cases()) {
    const Problem problem(kernels(), c);
    const auto all = problem.run(0, c.rows);
    Collected collected = collect_all(c);
    EXPECT_TRUE(same_bits(problem.run(0, c.rows, &collected), all))
        << "collecting changed the output";
    const int64_t width = c.group * c.value_dim;
    for (int64_t r = 0; r < c.rows; r += 1 + c.rows / 5) {
      const std::vector<float> want(all.begin() + r * width, all.begin() + (r + 1) * width);
      EXPECT_TRUE(same_bits(problem.run(r, 1), want)) << "row " << r << " alone";
      for (int64_t h = 0; h < c.group; ++h) {
        const std::vector<float> head(want.begin() + h * c.value_dim,
                                      want.begin() + (h + 1) * c.value_dim);
        EXPECT_TRUE(same_bits(problem.run(r, 1, nullptr, h), head)) << "head " << h << " alone";
      }
    }
    const int64_t cut = c.rows / 3;
    auto chunked = problem.run(0, cut);
    const auto rest = problem.run(cut, c.rows - cut);
    chunked.insert(chunked.end(), rest.begin(), rest.end());
    EXPECT_TRUE(same_bits(chunked, all)) << "chunked";
  }
}

TEST_P(Attention, SplitsMergeToTheSameBits) {
  auto list = attention_cases();
  list.push_back(
      {{{CodecKind::kQ4, CodecKind::kQ8, 2000, 16}, {CodecKind::kF16, CodecKind::kQ4, 4500}},
       320,
       310,
       2,
       16,
       16,
       0,
       true});
  list.push_back({{{CodecKind::kQ8, CodecKind::kQ4, 6200, 64}}, 1, 1, 8, 32, 80});
  for (const AttentionCase& c : list) {
    const Problem problem(kernels(), c);
    const AttentionTask task = problem.task(0, c.rows);
    Collected all = collect_all(c, 3), split = all;
    all.from = split.from = c.rows / 4;
    const auto want = problem.run_on(problem.view(), task, &all);
    EXPECT_TRUE(same_bits(problem.run_splits(problem.view(), task, &split), want));
    EXPECT_EQ(split, all);
    EXPECT_TRUE(same_bits(problem.run_splits(problem.view(), task), want));
  }
}

TEST(AttentionSplits, AreThirtyTwoTilesOfAllRunsAndOneWithAWindow) {
  const KernelTable& kernels = kernels_for(Isa::kGeneric);
  AttentionCase c{{{CodecKind::kF32, CodecKind::kF32, 65}, {CodecKind::kF32, CodecKind::kF32, 1}},
                  1};
  const auto splits = [&] {
    const Problem problem(kernels, c);
    return attention_splits(problem.view(), problem.task(0, c.rows));
  };
  EXPECT_EQ(splits(), 1);  // four tiles
  c.raw = 29 * 64;
  EXPECT_EQ(splits(), 1);
  c.raw += 1;
  EXPECT_EQ(splits(), 2);
  c.rows = 3;
  EXPECT_EQ(splits(), 2);
  c.raw += 32 * 64;
  EXPECT_EQ(splits(), 3);
  c.window = 1 << 20;
  EXPECT_EQ(splits(), 1);
}

// The same run in pages of any size, from any row of the first page on, is the same bits.
TEST_P(Attention, HowARunLiesInPagesDoesNotShow) {
  for (const CodecKind codec : kCodecKinds) {
    for (const int64_t rows : {1, 64, 65, 201}) {
      AttentionCase c{{{codec, codec, rows}, {CodecKind::kF16, codec, 30}}, 9, 9, 2, 24, 40};
      const Problem problem(kernels(), c);
      // Many queries copy a tile, few read it where it lies if it lies well.
      const auto want = problem.run(0, c.rows), last = problem.run(c.rows - 1, 1);
      for (const int64_t page_rows : {1, 16, 32, 64, 100}) {
        for (const int64_t first : {int64_t{0}, page_rows / 2, page_rows - 1}) {
          c.runs[0].page_rows = page_rows;
          c.runs[0].first = first;
          const Problem other(kernels(), c);
          EXPECT_TRUE(same_bits(other.run(0, c.rows), want) &&
                      same_bits(other.run(c.rows - 1, 1), last))
              << codec_name(codec) << " rows " << rows << " pages " << page_rows << " " << first;
        }
      }
    }
  }
}

// fp32-encoded and raw rows are the same numbers where a tile ends.
TEST_P(Attention, RawRowsAreARunOfFloats) {
  AttentionCase c{{}, 210, 9, 2, 24, 40};
  const auto want = Problem(kernels(), c).run(0, c.rows);
  for (const int64_t encoded : {64, 128, 192}) {
    c.runs = {{CodecKind::kF32, CodecKind::kF32, encoded, 16}};
    c.raw = 210 - encoded;
    EXPECT_TRUE(same_bits(Problem(kernels(), c).run(0, c.rows), want)) << encoded;
    c.runs = {{CodecKind::kF32, CodecKind::kF32, 64, 16},
              {CodecKind::kF32, CodecKind::kF32, encoded - 64, 32}};
    EXPECT_TRUE(same_bits(Problem(kernels(), c).run(0, c.rows), want)) << "two runs";
  }
}

// Rows before every window may be anything; whole tiles of them may be gone, and a page pointer
// that no row needs may be null.
TEST_P(Attention, WhatAWindowHidesDoesNotShow) {
  const AttentionCase c{{{CodecKind::kF16, CodecKind::kQ8, 2320}}, 10, 3, 2, 16, 16, 100, true};
  const Problem problem(kernels(), c);
  Collected all = collect_all(c, 1);
  const auto want = problem.run(0, 3, &all);
  KvHeadView view = problem.view();
  // The first row sees slots 2228 on: tiles 0 to 33 are gone.
  std::vector<const std::byte*> pages(view.runs[0].pages, view.runs[0].pages + 145);
  for (size_t p = 0; p < 34 * 4; ++p) pages[p] = nullptr;
  view.runs[0].pages = pages.data();
  EXPECT_TRUE(same_bits(problem.run_on(view, problem.task(0, 3)), want));
  view.runs[0].pages = pages.data() + 34 * 4;
  view.runs[0].rows -= 34 * 64;
  Collected rest(2330 - 34 * 64, 1);
  EXPECT_TRUE(same_bits(problem.run_on(view, problem.task(0, 3), &rest), want))
      << "whole tiles removed";
  const auto every = all.scores();
  EXPECT_EQ(rest.scores(), std::vector<double>(every.begin() + 34 * 64, every.end()));
  EXPECT_EQ(every[2227], 1);
  EXPECT_GT(every[2228], 1);
}

TEST_P(Attention, AWindowOfEverythingIsNoWindow) {
  AttentionCase c{{{CodecKind::kF16, CodecKind::kF16, 130, 32}}, 70, 70, 2, 64, 64};
  const auto want = Problem(kernels(), c).run(0, 70);
  for (const int64_t window : {200, 1000}) {
    c.window = window;
    EXPECT_TRUE(same_bits(Problem(kernels(), c).run(0, 70), want)) << window;
  }
}

// The value as the first elements of the key, read from the same bytes (latent attention): a
// shorter value is a prefix of the longer one's output.
TEST_P(Attention, ValuesMayLieInTheKeys) {
  for (const CodecKind codec : kCodecKinds) {
    const AttentionCase c{{{codec, codec, 70}}, 20, 4, 3, 24, 24, 0, false, true};
    const Problem problem(kernels(), c);
    AttentionTask task = problem.task(0, 4);
    const auto whole = problem.run_on(problem.view(), task);
    task.value_dim = 10;
    const auto part = problem.run_on(problem.view(), task);
    for (size_t i = 0; i < 12; ++i) {
      const std::vector<float> got(&part[i * 10], &part[i * 10] + 10);
      EXPECT_TRUE(same_bits(got, {&whole[i * 24], &whole[i * 24] + 10})) << i;
    }
    // Values of their own, of the same codes, make no difference.
    AttentionCase apart = c;
    apart.latent = false;
    const Problem other(kernels(), apart);
    EXPECT_FALSE(same_bits(other.run(0, 4), whole)) << "other values must show";
  }
}

TEST_P(Attention, ScoresAddUpInAnyOrder) {
  const AttentionCase c{{{CodecKind::kF32, CodecKind::kF32, 60}}, 40, 5, 2, 16, 16};
  const Problem problem(kernels(), c);
  Collected all = collect_all(c, 7), some = all;
  problem.run(0, 5, &all);
  for (const int64_t r : {3, 0, 4}) problem.run(r, 1, &some);
  problem.run(1, 2, &some);
  EXPECT_EQ(all, some);
}

// One visible slot has all of the attention: every sum is the number of heads, exactly, beyond what
// 32 bits hold, and where one lane of sixteen does not fit the others are right too.
TEST_P(Attention, LargeScoresAreExact) {
  for (const int64_t group : {1, 2, 6, 70}) {
    const AttentionCase c{{}, 1, 1, group, 8, 8};
    const Problem problem(kernels(), c);
    Collected got = collect_all(c);
    got.low[0] = UINT32_MAX - 5;
    const double before = got.scores()[0];
    for (int i = 0; i < 100; ++i) problem.run(0, 1, &got);
    EXPECT_EQ(got.scores()[0] - before, static_cast<double>(100 * group)) << group;
  }
  AttentionCase c{{{CodecKind::kF32, CodecKind::kF32, 80}}, 3, 1, 5, 16, 16};
  const Problem problem(kernels(), c);
  std::vector<float> keys = problem.keys();
  for (int64_t i = 0; i < 16; ++i) keys[static_cast<size_t>(80 * 16 + i)] = 0;
  KvHeadView view = problem.view();
  view.raw_keys = keys.data() + 80 * 16;
  AttentionTask task = problem.task(0, 1);
  // One head looks at one slot alone, and so do they all.
  std::vector<float> q(static_cast<size_t>(5 * 16), 0.0f);
  for (size_t h = 0; h < 5; ++h) {
    for (size_t i = 0; i < 16; ++i) q[h * 16 + i] = 60 * keys[static_cast<size_t>(81 * 16) + i];
  }
  task.q = q.data();
  Collected got = collect_all(c, 1);
  problem.run_on(view, task, &got);
  const auto scores = got.scores();
  EXPECT_GT(scores[81], 3) << "the case";
  double sum = 0;
  for (const double s : scores) sum += s - 1;
  EXPECT_NEAR(sum, 5, score_bound(c, 1).absolute * 83);
}

TEST_P(Attention, WhatIsNoNumberAddsNothing) {
  const AttentionCase c{{{CodecKind::kF32, CodecKind::kF32, 100}}, 5, 2, 2, 16, 16};
  const Problem problem(kernels(), c);
  std::vector<float> q = problem.queries();
  q[0] = std::nanf("");  // of row 0, head 0
  AttentionTask task = problem.task(0, 2);
  task.q = q.data();
  Collected got = collect_all(c, 1), want = got;
  EXPECT_TRUE(std::isnan(problem.run_on(problem.view(), task, &got)[0]));
  problem.run(1, 1, &want);
  EXPECT_EQ(got.scores(), want.scores());
}

// Also over more rows than one chunk, and from a row on.
TEST_P(Attention, CollectedRowsDoNotDependOnTheCall) {
  const AttentionCase c{{{CodecKind::kQ4, CodecKind::kF16, 90}}, 310, 300, 3, 16, 16};
  const Problem problem(kernels(), c);
  for (const int64_t from : {0, 7, 100, 299}) {
    Collected whole = collect_all(c), parts = whole;
    whole.from = from;
    problem.run(0, 300, &whole);
    for (int64_t r = from; r < 300; r += 50) {
      problem.run(r, std::min<int64_t>(50, 300 - r), &parts);
    }
    whole.from = 0;
    EXPECT_EQ(whole, parts) << from;
  }
}

TEST_P(Attention, SlotsBeyondARowDoNotReachIt) {
  const AttentionCase c{{}, 70, 70, 1, 16, 16};
  const Problem problem(kernels(), c);
  const auto all = problem.run(0, 70);
  auto keys = problem.keys(), values = problem.values();
  for (size_t i = 40 * 16; i < keys.size(); ++i) keys[i] = values[i] = std::nanf("");
  KvHeadView view = problem.view();
  view.raw_keys = keys.data();
  view.raw_values = values.data();
  const auto out = problem.run_on(view, problem.task(0, 70));
  EXPECT_TRUE(
      same_bits({out.begin(), out.begin() + 40 * 16}, {all.begin(), all.begin() + 40 * 16}));
  EXPECT_TRUE(std::isnan(out[40 * 16]));
}

TEST(AttentionIsas, FmaIsasAgreeBitForBit) {
  for (const AttentionCase& c : attention_cases()) {
    std::vector<float> want;
    Collected first(0);
    for (const Isa isa : fma_isas()) {
      Collected got = collect_all(c);
      const auto out = Problem(kernels_for(isa), c).run(0, c.rows, &got);
      if (want.empty()) {
        want = out;
        first = got;
      }
      EXPECT_TRUE(same_bits(out, want)) << isa_name(isa);
      EXPECT_EQ(got, first) << isa_name(isa);
    }
  }
}

TEST(ScoreSums, AddUpInSixtyFourBits) {
  uint32_t low[2] = {UINT32_MAX, 3}, high[2] = {7, 0}, more_low[2] = {1, 5}, more_high[2] = {0, 2};
  add_scores({low, high}, {more_low, more_high}, 2);
  EXPECT_EQ(low[0], 0u);
  EXPECT_EQ(high[0], 8u);
  EXPECT_EQ(low[1], 8u);
  EXPECT_EQ(high[1], 2u);
  EXPECT_EQ(score_value(0, 8), 32.0);
  add_score({low, high}, 0, 0.75);
  EXPECT_EQ(score_value(low[0], high[0]), 32.75);
  add_score({low, high}, 0, 1000);
  EXPECT_EQ(score_value(low[0], high[0]), 1032.75);
  const double half = std::ldexp(0.49, -kScoreBits), infinity = INFINITY;
  for (const double nothing : {0.0, -1.0, std::nan(""), half, infinity}) {
    add_score({low, high}, 0, nothing);
    EXPECT_EQ(score_value(low[0], high[0]), 1032.75) << nothing;
  }
  uint32_t counts[2] = {1, 2};
  add_counts(counts, more_low, 2);
  EXPECT_EQ(counts[0], 2u);
  EXPECT_EQ(counts[1], 7u);
}

TEST(AttentionChecks, NothingVisibleIsAProgrammerError) {
  KvHeadView view;
  AttentionTask task;
  task.rows = task.group = 1;
  task.key_dim = task.value_dim = 8;
  EXPECT_THROW(attention_run(view, task, nullptr), Error);
  EXPECT_THROW(attention_scratch_bytes(int64_t{1} << 40, 8, int64_t{1} << 60, 64, 64), Error);
  EXPECT_EQ(attention_scratch_bytes(4, 2, 100, 64, 64, false),
            attention_scratch_bytes(4, 2, 100000, 64, 64, false));
}

}  // namespace
}  // namespace ashlar::test
