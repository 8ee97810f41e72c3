// ArkVale's choice among thousands of pages against a plain sort of all of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "core/base/rng.h"
#include "engine/policy/arkvale.h"

namespace ashlar {
namespace {

using Pages = std::vector<int32_t>;

// A score that is not a number is the least; of equal ones the newer page is better.
Pages sorted_best(Pages pages, int64_t count, const std::vector<float>& scores) {
  const auto value = [&](int32_t page) {
    const float score = scores[static_cast<size_t>(page)];
    return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
  };
  std::sort(pages.begin(), pages.end(), [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a > b;
  });
  pages.resize(std::min(pages.size(), static_cast<size_t>(count)));
  return pages;
}

std::set<int32_t> expected(const ArkvaleBudget& b, const PagesView& view,
                           const std::vector<float>& scores) {
  const auto n = static_cast<int32_t>(view.pages);
  const auto window = static_cast<int32_t>(n - (b.window - 1));
  std::set<int32_t> kept;
  Pages ranked;
  for (int32_t page = 0; page < n; ++page) {
    if (page < b.sinks || page >= window) {
      kept.insert(page);
    } else {
      ranked.push_back(page);
    }
  }
  const int64_t room = b.pages - 1 - std::ssize(kept);
  for (const int32_t page : sorted_best(ranked, view.prompt_end ? room : b.ranked, scores)) {
    kept.insert(page);
  }
  Pages others;
  for (const int32_t page : view.resident) {
    if (!kept.contains(page)) others.push_back(page);
  }
  const int64_t left = b.pages - 1 - std::ssize(kept);
  for (const int32_t page : sorted_best(others, left, scores)) kept.insert(page);
  return kept;
}

// Many values, few, one, or those that compare oddly.
float score_of(int64_t kind, uint64_t bits) {
  constexpr float kOdd[] = {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            0.0f,
                            -0.0f,
                            1e-45f,
                            -1e-45f};
  if (kind == 0) return static_cast<float>(bits % 100003) / 50000.0f - 1.0f;
  if (kind == 1) return static_cast<float>(bits % 7) - 3.0f;
  if (kind == 2) return 0.25f;
  return kOdd[bits % std::size(kOdd)];
}

TEST(ArkvalePages, AreThoseOfAPlainSort) {
  for (int64_t trial = 0; trial < 400; ++trial) {
    const Philox random(static_cast<uint64_t>(trial));
    const auto draw = [&](uint64_t i, int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random.bits(i) % static_cast<uint64_t>(high - low + 1));
    };
    ArkvaleBudget b;
    b.sinks = draw(0, 0, 3);
    b.window = draw(1, 1, 4);
    b.ranked = draw(2, 1, 70);
    b.pages = b.sinks + b.window + b.ranked + draw(3, 0, 80);
    PagesView view;
    view.pages = b.pages + draw(4, 0, 3000);
    view.prompt_end = trial % 5 == 0;
    std::vector<float> scores(static_cast<size_t>(view.pages));
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = score_of(trial % 4, random.bits(1000 + i) >> 7);
    }
    view.scores = scores;
    // Resident: what must be and a random lot of the others.
    Pages resident;
    for (int32_t page = 0; page < static_cast<int32_t>(view.pages); ++page) {
      const bool must = page < b.sinks || page >= view.pages - (b.window - 1);
      const bool may = std::ssize(resident) < b.pages - b.window;
      if (must || (may && draw(9000 + static_cast<uint64_t>(page), 0, 9) == 0)) {
        resident.push_back(page);
      }
    }
    view.resident = resident;
    const std::set<int32_t> want = expected(b, view, scores);
    EXPECT_EQ(arkvale_pages(b, view), Pages(want.begin(), want.end())) << "trial " << trial;
  }
}

}  // namespace
}  // namespace ashlar
