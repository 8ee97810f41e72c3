#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "engine/policy/kvcrush_select.h"
#include "tests/engine/kvcrush_reference.h"
#include "tests/engine/kvcrush_requests.h"
#include "tests/support/files.h"

namespace ashlar::test {
namespace {

void expect_bits(const CrushBits& pages, const std::vector<std::vector<bool>>& expected) {
  ASSERT_EQ(pages.pages, std::ssize(expected));
  for (size_t p = 0; p < expected.size(); ++p) {
    ASSERT_EQ(pages.bits, std::ssize(expected[p]));
    std::vector<bool> bits;
    for (int64_t i = 0; i < pages.words * 64; ++i) {
      const uint64_t word =
          pages.packed[p * static_cast<size_t>(pages.words) + static_cast<size_t>(i / 64)];
      const bool bit = ((word >> (i % 64)) & 1) != 0;
      if (i < pages.bits) {
        bits.push_back(bit);
      } else {
        ASSERT_FALSE(bit) << "unused bit " << i;
      }
    }
    ASSERT_EQ(bits, expected[p]) << "page " << p;
  }
}

// Every step and every decision, on random and adversarial scores.
TEST(KvCrush, EqualsSlowReference) {
  Draw draw(1);
  for (int i = 0; i < 20000; ++i) {
    Owned owned;
    draw_request(draw, owned);
    const CrushRequest& q = owned.request;
    SCOPED_TRACE(fmt::format("request {}: {}", i, say(q)));
    const CrushReference reference(q);
    if (q.sink + q.recent < q.rows) {
      const CrushBits bits = crush_bits(q);
      expect_bits(bits, reference.bits());
      ASSERT_EQ(crush_distances(bits, crush_anchor(bits, q)), reference.distances());
    }
    const CrushSelection s = select_crush(q);
    ASSERT_EQ(letters(s.roles), letters(reference.roles()));
    std::vector<int64_t> kept;
    for (int64_t row = 0; row < q.rows; ++row) {
      if (s.roles[static_cast<size_t>(row)] != CrushRole::kDropped) kept.push_back(row);
    }
    ASSERT_EQ(s.keep, kept);
    ASSERT_EQ(std::ssize(s.keep), std::min(q.rows, q.budget));
    if (HasFatalFailure()) return;
  }
}

// Worked out by hand: two heads, pages of two rows, one row protected at each end.
TEST(KvCrush, WorkedExample) {
  const std::vector<float> scores = {0, 8, 7, 1, 2, 6, 5, 3, 4, 0,   // 11 00 11 00
                                     0, 1, 8, 2, 7, 3, 6, 4, 5, 0};  // 01 01 01 01
  CrushRequest q;
  q.rows = 10, q.heads = 2, q.scores = scores;
  q.sink = 1, q.recent = 1, q.page = 2, q.budget = 6, q.representatives = 0.5;
  const CrushBits bits = crush_bits(q);
  // Bit r·heads + h, the first one lowest: 1011, 0001, 1011, 0001.
  EXPECT_EQ(bits.packed, (std::vector<uint64_t>{0b1101, 0b1000, 0b1101, 0b1000}));
  EXPECT_EQ(crush_anchor(bits, q), std::vector<uint64_t>{0b1000});
  EXPECT_EQ(crush_distances(bits, crush_anchor(bits, q)), (std::vector<int64_t>{2, 0, 2, 0}));
  // Sums of pages are 24, 12, 20, 16; the order of distance of the others is 1, 3, 2.
  EXPECT_EQ(letters(select_crush(q).roles), "PII----RRP");
  q.ranks = CrushRanks::kStep;
  EXPECT_EQ(letters(select_crush(q).roles), "PIIRR----P");
  q.anchor = CrushAnchor::kInverseMean;  // 0100: distances 4, 2, 4, 2
  EXPECT_EQ(crush_anchor(bits, q), std::vector<uint64_t>{0b0010});
  q.anchor = CrushAnchor::kAlternate;
  EXPECT_EQ(crush_anchor(bits, q), std::vector<uint64_t>{0b1010});
  q.feature =
      CrushFeature::kPageBits;  // sums 9 15 3 9 9 11 7 9: the best are 15, 11 and the newest 9s
  EXPECT_EQ(crush_bits(q).packed, (std::vector<uint64_t>{0b10, 0b00, 0b11, 0b10}));
  q.budget = 7;  // one row more than whole pages: the best single one, row 6 of 11
  EXPECT_EQ(letters(select_crush(q).roles).at(6), 'I');
  EXPECT_EQ(std::ssize(select_crush(q).keep), 7);
}

TEST(KvCrush, Edges) {
  Draw draw(3);
  Owned owned;
  CrushRequest& q = owned.request;
  q.rows = 50, q.heads = 2, q.sink = 3, q.recent = 7, q.page = 4, q.representatives = 0.5;
  owned.draw_scores(draw, false);
  q.budget = 50;
  EXPECT_EQ(count(select_crush(q), CrushRole::kImportant), 40);
  q.budget = 10;
  EXPECT_EQ(letters(select_crush(q).roles), "PPP" + std::string(40, '-') + "PPPPPPP");
  q.budget = 30, q.representatives = 0;
  EXPECT_EQ(count(select_crush(q), CrushRole::kRepresentative), 0);
  EXPECT_EQ(count(select_crush(q), CrushRole::kImportant), 20);
  q.representatives = 1;
  EXPECT_EQ(count(select_crush(q), CrushRole::kRepresentative), 20);
  q.representatives = 1e-9;  // raised to one page
  EXPECT_EQ(count(select_crush(q), CrushRole::kRepresentative), 4);
  q.budget = 13;  // less than a page: single rows by score
  EXPECT_EQ(count(select_crush(q), CrushRole::kImportant), 3);
  EXPECT_EQ(select_crush(CrushRequest{}).keep.size(), 0u);
}

TEST(KvCrush, Refusals) {
  const std::vector<float> scores(20, 1.0f);
  CrushRequest q;
  q.rows = 20, q.scores = scores, q.sink = 4, q.recent = 8, q.budget = 11;
  expect_error(ErrorCode::kRequest, {"budget of 11", "sink + recent = 4 + 8"},
               [&] { select_crush(q); });
  q.budget = -1;
  expect_error(ErrorCode::kRequest, {"budget of -1"}, [&] { select_crush(q); });
  q.sink = 15, q.budget = 19;  // all rows are protected, and more than the budget
  expect_error(ErrorCode::kRequest, {"budget of 19"}, [&] { select_crush(q); });
  q.budget = 20;
  EXPECT_EQ(select_crush(q).keep.size(), 20u);
  for (const double share : {-0.01, 1.01, double{NAN}}) {
    q.representatives = share;
    expect_error(ErrorCode::kRequest, {"representatives", "[0, 1]"}, [&] { select_crush(q); });
  }
  q.representatives = 0, q.heads = 2;
  expect_error(ErrorCode::kInternal, {"scores"}, [&] { select_crush(q); });
  q.heads = 1;
  expect_error(ErrorCode::kInternal, {"pages"}, [&] { select_crush(q, CrushBits{}); });
  q.page = 0;
  expect_error(ErrorCode::kInternal, {"page"}, [&] { select_crush(q); });
}

TEST(KvCrush, Ranks) {
  using List = std::vector<int64_t>;
  EXPECT_EQ(crush_ranks(7, 3, CrushRanks::kSpread), (List{0, 3, 6}));
  EXPECT_EQ(crush_ranks(7, 3, CrushRanks::kStep), (List{0, 2, 4}));  // the far tail is never picked
  EXPECT_EQ(crush_ranks(6, 5, CrushRanks::kSpread), (List{0, 1, 3, 4, 5}));
  EXPECT_EQ(crush_ranks(6, 5, CrushRanks::kStep), (List{0, 1, 2, 3, 4}));  // just the farthest goes
  EXPECT_EQ(crush_ranks(9, 1, CrushRanks::kSpread), List{4});
  for (const CrushRanks ranks : {CrushRanks::kSpread, CrushRanks::kStep}) {
    for (int64_t m = 0; m < 60; ++m) {
      for (int64_t k = 0; k <= m; ++k) {
        const List picked = crush_ranks(m, k, ranks);
        ASSERT_EQ(std::ssize(picked), k);
        for (size_t i = 1; i < picked.size(); ++i) ASSERT_LT(picked[i - 1], picked[i]);
        if (k == 0) continue;
        ASSERT_GE(picked.front(), 0);
        ASSERT_LT(picked.back(), m);
      }
    }
  }
}

// Rows are dropped one at a time, each unlike every other: OpenVINO's ranks keep the k pages
// nearest to the anchor in each step, so after a while the pages far from it are gone; ours keeps
// both ends.
TEST(KvCrush, DecodingKeepsBothEndsOfTheOrder) {
  // Pages of 8 rows with 0 … 8 ones (36 of 72), zeros as anchor: the distance is the number of
  // ones.
  std::vector<float> scores;
  for (int page = 0; page < 9; ++page) {
    for (int row = 0; row < 8; ++row) {
      const float score = static_cast<float>(page * 8 + row);
      scores.push_back(row < page ? 1000.0f + score : score);
    }
  }
  CrushRequest q;
  q.rows = 72, q.scores = scores, q.page = 8, q.budget = 64, q.representatives = 1;
  q.feature = CrushFeature::kPageBits, q.anchor = CrushAnchor::kZeros;
  q.ranks = CrushRanks::kStep;
  EXPECT_EQ(page_letters(q, select_crush(q)), "RRRRRRRR-");  // by score the best page of all
  q.ranks = CrushRanks::kSpread;
  EXPECT_EQ(page_letters(q, select_crush(q)), "RRRR-RRRR");
}

// vLLM's representatives exclude the important pages of KV head 0 alone. Here each head's lane is
// described by all heads and excludes its own: every lane keeps exactly its budget, no row twice.
TEST(KvCrush, RepresentativesExcludeEachLanesOwnImportantPages) {
  Draw draw(5);
  constexpr int64_t kHeads = 4;
  bool differ = false;
  for (int trial = 0; trial < 50; ++trial) {
    Owned owned;
    CrushRequest& q = owned.request;
    q.rows = 100, q.heads = kHeads, q.sink = 4, q.recent = 16, q.page = 4, q.budget = 60;
    q.representatives = 0.5, q.anchor = CrushAnchor::kAlternate;
    owned.draw_scores(draw, false);
    const CrushBits shared = crush_bits(q);
    std::vector<std::string> lanes;
    for (int64_t h = 0; h < kHeads; ++h) {
      q.importance = q.scores.subspan(static_cast<size_t>(h * q.rows), static_cast<size_t>(q.rows));
      const CrushSelection s = select_crush(q);
      EXPECT_EQ(std::ssize(s.keep), 4 + 40 + 16);  // start + B + recent
      EXPECT_EQ(count(s, CrushRole::kImportant), 20);
      EXPECT_EQ(count(s, CrushRole::kRepresentative), 20);
      lanes.push_back(letters(s.roles));
      EXPECT_EQ(letters(select_crush(q, shared).roles), lanes.back());
    }
    differ |= lanes[0] != lanes[1];
  }
  EXPECT_TRUE(differ);
}

// The algorithm without pages, in its own words.
TEST(KvCrush, PagesOfOneRowAreTheTokenLevel) {
  Draw draw(7);
  for (int trial = 0; trial < 200; ++trial) {
    Owned owned;
    CrushRequest& q = owned.request;
    q.rows = 40, q.heads = 1 + draw.below(5), q.budget = 16, q.representatives = 0.5;
    for (int64_t i = 0; i < q.heads * q.rows; ++i) owned.scores.push_back(draw.unit());
    q.scores = owned.scores, q.anchor = CrushAnchor::kOnes;
    std::vector<std::pair<double, int64_t>> sums;
    std::vector<std::pair<int64_t, int64_t>> zeros;  // distance from ones
    for (int64_t row = 0; row < 40; ++row) {
      double sum = 0;
      int64_t low = 0;
      for (int64_t h = 0; h < q.heads; ++h) {
        const float own = q.scores[static_cast<size_t>(h * 40 + row)];
        int64_t better = 0;
        for (int64_t other = 0; other < 40; ++other) {
          better += q.scores[static_cast<size_t>(h * 40 + other)] > own;
        }
        low += better >= 20;
        sum += static_cast<double>(own);
      }
      sums.emplace_back(-sum, row);
      zeros.emplace_back(low, row);
    }
    std::sort(sums.begin(), sums.end());
    std::string expected(40, '-');
    for (size_t i = 0; i < 8; ++i) expected[static_cast<size_t>(sums[i].second)] = 'I';
    std::erase_if(zeros,
                  [&](const auto& z) { return expected[static_cast<size_t>(z.second)] == 'I'; });
    std::sort(zeros.begin(), zeros.end());
    for (const size_t rank : {0, 4, 9, 13, 18, 22, 27, 31}) {  // of 32, 31/7 apart
      expected[static_cast<size_t>(zeros[rank].second)] = 'R';
    }
    ASSERT_EQ(letters(select_crush(q).roles), expected);
    if (q.heads > 1) continue;
    q.feature = CrushFeature::kPageBits;  // one head: the same bits
    ASSERT_EQ(letters(select_crush(q).roles), expected);
  }
}

// Pages at the same distance are alike: exchanging two that are not important changes no decision.
TEST(KvCrush, ExchangingEquallyDistantPagesChangesNothing) {
  Draw draw(9);
  int64_t exchanged = 0;
  for (int trial = 0; trial < 300; ++trial) {
    Owned owned;
    CrushRequest& q = owned.request;
    q.rows = 80, q.heads = 2, q.page = 4, q.budget = 40, q.representatives = 0.5;
    q.feature = trial % 2 == 0 ? CrushFeature::kHeadBits : CrushFeature::kPageBits;
    q.anchor = kAnchors[draw.below(6)];
    for (int64_t i = 0; i < q.heads * q.rows; ++i) owned.scores.push_back(draw.unit());
    q.scores = owned.scores;
    const CrushSelection before = select_crush(q);
    const CrushBits bits = crush_bits(q);
    const std::vector<int64_t> distances = crush_distances(bits, crush_anchor(bits, q));
    const std::string pages = page_letters(q, before);
    for (size_t a = 0; a < distances.size(); ++a) {
      const auto b = static_cast<size_t>(draw.below(std::ssize(distances)));
      if (a == b || distances[a] != distances[b] || pages[a] == 'I' || pages[b] == 'I') continue;
      ++exchanged;
      for (size_t h = 0; h < 2; ++h) {
        const auto at = [&](size_t page) {
          return owned.scores.begin() + static_cast<int64_t>(h * 80 + page * 4);
        };
        std::swap_ranges(at(a), at(a) + 4, at(b));
      }
    }
    ASSERT_EQ(letters(select_crush(q).roles), letters(before.roles));
  }
  EXPECT_GT(exchanged, 300);
}

TEST(KvCrush, RandomAnchorIsAFunctionOfSeedAndDraw) {
  const std::vector<float> scores(100, 1.0f);
  CrushRequest q;
  q.rows = 100, q.scores = scores, q.page = 100, q.anchor = CrushAnchor::kRandom;
  const CrushBits bits = crush_bits(q);
  const auto first = crush_anchor(bits, q);
  q.draw = 1;
  const auto second = crush_anchor(bits, q);
  q.draw = 0, q.seed = 1;
  EXPECT_NE(crush_anchor(bits, q), first);
  EXPECT_NE(second, first);
  q.seed = 0;
  EXPECT_EQ(crush_anchor(bits, q), first);
  EXPECT_EQ(first[1] >> 36, 0u);
}

// For information: the best of several runs. Between two selections lies the decoding of many
// tokens.
TEST(KvCrush, Time) {
  Draw draw(11);
  for (const int64_t rows : {8192, 32768}) {
    Owned owned;
    CrushRequest& q = owned.request;
    q.rows = rows, q.heads = 8, q.sink = 4, q.recent = 128, q.budget = rows / 4;
    q.representatives = 0.25;
    for (int64_t i = 0; i < q.heads * rows; ++i)
      owned.scores.push_back(std::exp(-12 * draw.unit()));
    q.scores = owned.scores;
    for (const int64_t page : {1, 16}) {
      for (const CrushFeature feature : {CrushFeature::kHeadBits, CrushFeature::kPageBits}) {
        q.page = page, q.feature = feature;
        double best = INFINITY;
        for (int i = 0; i < 15; ++i) {
          const auto start = std::chrono::steady_clock::now();
          ASSERT_EQ(std::ssize(select_crush(q).keep), q.budget);
          const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
          best = std::min(best, time.count());
        }
        std::cout << fmt::format("rows {}, 8 heads, page {}, {}: {:.0f} us\n", rows, page,
                                 feature == CrushFeature::kHeadBits ? "head bits" : "page bits",
                                 1e6 * best);
      }
    }
  }
}

}  // namespace
}  // namespace ashlar::test
