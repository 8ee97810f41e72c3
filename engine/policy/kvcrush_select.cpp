#include "engine/policy/kvcrush_select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxPage = int64_t{1} << 20;

// Integers in the order of the numbers, NaN as −∞, both zeros alike. Without branches, so that
// loops over it are vectorised.
uint32_t order_key(float x) {
  const float number = x == x ? x + 0.0f : -std::numeric_limits<float>::infinity();
  const auto u = std::bit_cast<uint32_t>(number);
  return u ^ ((uint32_t{0} - (u >> 31)) | 0x80000000u);
}

uint64_t order_key(double x) {
  const double number = x == x ? x + 0.0 : -std::numeric_limits<double>::infinity();
  const auto u = std::bit_cast<uint64_t>(number);
  return u ^ ((uint64_t{0} - (u >> 63)) | 0x8000000000000000u);
}

// The count-th largest of some keys, how many are equal to it, and how many of those belong to the
// largest `count`.
template <typename Key>
struct Cut {
  Key key = 0;
  int64_t equals = 0;
  int64_t chosen = 0;
};

// 1 ≤ count ≤ keys. Digit by digit from the top, so that no order of the keys is a slow one.
template <typename Key>
Cut<Key> find_cut(std::span<const Key> keys, int64_t count) {
  constexpr int kDigit = 11;
  std::vector<Key> narrowed;
  std::array<int32_t, 1 << kDigit> histogram;
  Cut<Key> cut{0, 0, count};
  for (int top = std::numeric_limits<Key>::digits; top > 0;) {
    const int shift = std::max(0, top - kDigit);
    const Key mask = (Key{1} << (top - shift)) - 1;
    histogram.fill(0);
    for (const Key key : keys) ++histogram[(key >> shift) & mask];
    Key digit = mask;
    while (histogram[digit] < cut.chosen) cut.chosen -= histogram[digit--];
    cut.key |= digit << shift;
    cut.equals = histogram[digit];
    if (shift > 0 && cut.equals < std::ssize(keys)) {
      // One slot more than matches: every key is written, only matches stay.
      std::vector<Key> next(static_cast<size_t>(cut.equals) + 1);
      size_t n = 0;
      for (const Key key : keys) {
        next[n] = key;
        n += ((key >> shift) & mask) == digit;
      }
      next.resize(n);
      narrowed = std::move(next);
      keys = narrowed;
    }
    top = shift;
  }
  return cut;
}

// marks[i] = 1 for the largest `count` keys, of equal ones the newest; 0 for the others.
template <typename Key>
void mark_largest(std::span<const Key> keys, int64_t count, std::vector<uint8_t>& marks) {
  marks.assign(keys.size(), 0);
  if (count == 0) return;
  Cut<Key> cut = find_cut(keys, count);
  const Key least = cut.key;
  for (size_t i = 0; i < keys.size(); ++i) marks[i] = keys[i] >= least;
  // The oldest of the equal ones are too many.
  for (size_t i = 0; cut.chosen < cut.equals; ++i) {
    if (keys[i] != least) continue;
    marks[i] = 0;
    --cut.equals;
  }
}

int64_t middle_rows(const CrushRequest& r) { return r.rows - r.sink - r.recent; }
int64_t bits_per_row(const CrushRequest& r) {
  return r.feature == CrushFeature::kHeadBits ? r.heads : 1;
}
int64_t middle_pages(const CrushRequest& r) { return (middle_rows(r) + r.page - 1) / r.page; }

void check(const CrushRequest& r) {
  ASHLAR_CHECK_GE(r.rows, 0);
  ASHLAR_CHECK_GE(r.heads, 1);
  ASHLAR_CHECK(r.page >= 1 && r.page <= kMaxPage);
  ASHLAR_CHECK(r.sink >= 0 && r.recent >= 0);
  ASHLAR_CHECK_EQ(std::ssize(r.scores), r.heads * r.rows);
  if (!r.importance.empty()) ASHLAR_CHECK_EQ(std::ssize(r.importance), r.rows);
  require(r.representatives >= 0 && r.representatives <= 1, ErrorCode::kRequest,
          "kvcrush: the share of representatives must be in [0, 1], not {}", r.representatives);
}

// Importance of the candidates, never NaN.
std::vector<double> candidate_importance(const CrushRequest& r) {
  const auto count = static_cast<size_t>(middle_rows(r));
  const auto sink = static_cast<size_t>(r.sink);
  std::vector<double> sums(count, 0.0);
  const auto add = [&](std::span<const float> scores) {
    const std::span<const float> middle = scores.subspan(sink, count);
    for (size_t i = 0; i < count; ++i) sums[i] += static_cast<double>(middle[i]);
  };
  if (!r.importance.empty()) {
    add(r.importance);
  } else {
    const auto rows = static_cast<size_t>(r.rows);
    for (int64_t h = 0; h < r.heads; ++h)
      add(r.scores.subspan(static_cast<size_t>(h) * rows, rows));
  }
  for (double& sum : sums) {
    if (std::isnan(sum)) sum = -std::numeric_limits<double>::infinity();
  }
  return sums;
}

// Puts the mark of row r of a page at bit r · stride + offset.
void put_bits(std::span<const uint8_t> marks, int64_t page, int64_t stride, int64_t offset,
              CrushBits& pages) {
  const auto rows = std::ssize(marks);
  const int64_t words = pages.words;
  for (int64_t r = 0, bit = offset; r < std::min(rows, page); ++r, bit += stride) {
    const auto shift = static_cast<int>(bit & 63);
    uint64_t* word = pages.packed.data() + (bit >> 6);
    int64_t ones = 0;
    for (int64_t i = r; i < rows; i += page, word += words) {
      const uint64_t mark = marks[static_cast<size_t>(i)];
      *word |= mark << shift;
      ones += static_cast<int64_t>(mark);
    }
    pages.ones[static_cast<size_t>(bit)] = ones;
  }
}

CrushBits empty_bits(const CrushRequest& r) {
  CrushBits out;
  out.pages = middle_pages(r);
  out.bits = r.page * bits_per_row(r);
  out.words = (out.bits + 63) / 64;
  out.packed.assign(static_cast<size_t>(out.pages * out.words), 0);
  out.ones.assign(static_cast<size_t>(out.bits), 0);
  return out;
}

CrushBits head_bits(const CrushRequest& r) {
  CrushBits out = empty_bits(r);
  std::vector<uint32_t> keys(static_cast<size_t>(middle_rows(r)));
  std::vector<uint8_t> marks;
  for (int64_t h = 0; h < r.heads; ++h) {
    const float* scores = r.scores.data() + h * r.rows + r.sink;
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = order_key(scores[i]);
    mark_largest<uint32_t>(keys, middle_rows(r) / 2, marks);
    put_bits(marks, r.page, r.heads, h, out);
  }
  return out;
}

CrushBits page_bits(const CrushRequest& r, std::span<const double> importance) {
  CrushBits out = empty_bits(r);
  std::vector<uint64_t> keys(importance.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = order_key(importance[i]);
  std::vector<uint8_t> marks;
  mark_largest<uint64_t>(keys, middle_rows(r) / 2, marks);
  put_bits(marks, r.page, 1, 0, out);
  return out;
}

// One budget in pages: what whole pages it holds, and how many of them are representatives.
struct Split {
  int64_t important = 0;
  int64_t representatives = 0;
};

Split split_pages(const CrushRequest& r) {
  const int64_t free = r.budget - r.sink - r.recent;
  const int64_t whole = free / r.page;
  if (whole == 0 || r.representatives == 0) return {whole, 0};
  // To the nearest, so that a ratio such as 3/7 of 7 pages is 3 pages.
  const int64_t share = std::llround(static_cast<double>(free) * r.representatives);
  const int64_t representatives = std::clamp<int64_t>(share / r.page, 1, whole);
  return {whole - representatives, representatives};
}

// Pages with mark 0 by distance, ascending, the older first: a sort by counting, with the other
// pages behind the farthest.
std::vector<int64_t> by_distance(std::span<const int64_t> distances,
                                 std::span<const uint8_t> important, int64_t bits) {
  const auto bucket = [&](size_t p) {
    return static_cast<size_t>(important[p] ? bits + 1 : distances[p]);
  };
  std::vector<int64_t> begin(static_cast<size_t>(bits) + 3, 0);
  for (size_t p = 0; p < distances.size(); ++p) ++begin[bucket(p) + 1];
  for (size_t d = 1; d < begin.size(); ++d) begin[d] += begin[d - 1];
  const int64_t count = begin[static_cast<size_t>(bits) + 1];
  std::vector<int64_t> order(distances.size());
  for (size_t p = 0; p < distances.size(); ++p) {
    order[static_cast<size_t>(begin[bucket(p)]++)] = static_cast<int64_t>(p);
  }
  order.resize(static_cast<size_t>(count));
  return order;
}

// Chooses whole pages and returns the role of each.
std::vector<CrushRole> choose_pages(const CrushRequest& r, std::span<const double> importance,
                                    const CrushBits* given) {
  const auto page = static_cast<size_t>(r.page);
  std::vector<uint64_t> keys(static_cast<size_t>(middle_pages(r)));
  for (size_t p = 0; p < keys.size(); ++p) {
    double sum = 0;
    const size_t end = std::min(importance.size(), (p + 1) * page);
    for (size_t i = p * page; i < end; ++i) sum += importance[i];
    keys[p] = order_key(sum);
  }
  const Split split = split_pages(r);
  std::vector<uint8_t> important;
  mark_largest<uint64_t>(keys, split.important, important);
  std::vector<CrushRole> roles(keys.size());
  for (size_t p = 0; p < keys.size(); ++p) {
    roles[p] = important[p] ? CrushRole::kImportant : CrushRole::kDropped;
  }
  if (split.representatives == 0) return roles;
  const CrushBits own = given != nullptr                       ? CrushBits{}
                        : r.feature == CrushFeature::kHeadBits ? head_bits(r)
                                                               : page_bits(r, importance);
  const CrushBits& bits = given != nullptr ? *given : own;
  const std::vector<int64_t> distances = crush_distances(bits, crush_anchor(bits, r));
  const std::vector<int64_t> order = by_distance(distances, important, bits.bits);
  for (const int64_t rank : crush_ranks(std::ssize(order), split.representatives, r.ranks)) {
    roles[static_cast<size_t>(order[static_cast<size_t>(rank)])] = CrushRole::kRepresentative;
  }
  return roles;
}

// Roles of the candidates: whole pages, then the best single rows up to `free` rows.
void choose_rows(const CrushRequest& r, const CrushBits* given, int64_t free,
                 std::span<CrushRole> middle) {
  const std::vector<double> importance = candidate_importance(r);
  const std::vector<CrushRole> pages = choose_pages(r, importance, given);
  std::vector<uint64_t> keys;
  std::vector<size_t> rows;
  for (size_t p = 0, i = 0; p < pages.size(); ++p) {
    const size_t end = std::min(middle.size(), (p + 1) * static_cast<size_t>(r.page));
    for (; i < end; ++i) {
      middle[i] = pages[p];
      if (pages[p] != CrushRole::kDropped) --free;
    }
  }
  if (free == 0) return;
  for (size_t i = 0; i < middle.size(); ++i) {
    if (middle[i] != CrushRole::kDropped) continue;
    keys.push_back(order_key(importance[i]));
    rows.push_back(i);
  }
  std::vector<uint8_t> best;
  mark_largest<uint64_t>(keys, free, best);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (best[i]) middle[rows[i]] = CrushRole::kImportant;
  }
}

CrushSelection select(const CrushRequest& request, const CrushBits* given) {
  check(request);
  const int64_t protected_rows = request.sink + request.recent;
  require(
      request.budget >= std::min(request.rows, protected_rows), ErrorCode::kRequest,
      "kvcrush: a budget of {} rows is smaller than sink + recent = {} + {}; raise the budget or "
      "protect fewer rows",
      request.budget, request.sink, request.recent);
  CrushSelection out;
  out.roles.assign(static_cast<size_t>(request.rows), CrushRole::kProtected);
  const std::span roles(out.roles);
  if (protected_rows < request.rows) {
    const auto middle =
        roles.subspan(static_cast<size_t>(request.sink), static_cast<size_t>(middle_rows(request)));
    if (request.budget >= request.rows) {
      std::fill(middle.begin(), middle.end(), CrushRole::kImportant);
    } else {
      choose_rows(request, given, request.budget - protected_rows, middle);
    }
  }
  out.keep.resize(roles.size() + 1);
  size_t kept = 0;
  for (size_t i = 0; i < roles.size(); ++i) {
    out.keep[kept] = static_cast<int64_t>(i);
    kept += roles[i] != CrushRole::kDropped;
  }
  out.keep.resize(kept);
  return out;
}

}  // namespace

CrushBits crush_bits(const CrushRequest& request) {
  check(request);
  ASHLAR_CHECK_GE(middle_rows(request), 0);
  const bool per_head = request.feature == CrushFeature::kHeadBits;
  return per_head ? head_bits(request) : page_bits(request, candidate_importance(request));
}

std::vector<uint64_t> crush_anchor(const CrushBits& pages, const CrushRequest& request) {
  std::vector<uint64_t> anchor(static_cast<size_t>(pages.words), 0);
  const auto set_where = [&](auto&& holds) {
    for (int64_t bit = 0; bit < pages.bits; ++bit) {
      if (holds(bit)) anchor[static_cast<size_t>(bit >> 6)] |= uint64_t{1} << (bit & 63);
    }
  };
  const auto ones = [&](int64_t bit) { return pages.ones[static_cast<size_t>(bit)]; };
  switch (request.anchor) {
    case CrushAnchor::kZeros:
      break;
    case CrushAnchor::kOnes:
      set_where([](int64_t) { return true; });
      break;
    case CrushAnchor::kMean:
      set_where([&](int64_t bit) { return 2 * ones(bit) > pages.pages; });
      break;
    case CrushAnchor::kInverseMean:
      set_where([&](int64_t bit) { return 2 * ones(bit) < pages.pages; });
      break;
    case CrushAnchor::kAlternate:
      set_where([](int64_t bit) { return bit % 2 == 1; });
      break;
    case CrushAnchor::kRandom: {
      const Philox rng(request.seed, request.draw);
      set_where([&](int64_t bit) {
        return ((rng.bits(static_cast<uint64_t>(bit >> 6)) >> (bit & 63)) & 1) != 0;
      });
      break;
    }
  }
  return anchor;
}

std::vector<int64_t> crush_distances(const CrushBits& pages, std::span<const uint64_t> anchor) {
  ASHLAR_CHECK_EQ(std::ssize(anchor), pages.words);
  std::vector<int64_t> distances(static_cast<size_t>(pages.pages));
  const uint64_t* word = pages.packed.data();
  for (int64_t& distance : distances) {
    int count = 0;
    for (const uint64_t a : anchor) count += std::popcount(*word++ ^ a);
    distance = count;
  }
  return distances;
}

std::vector<int64_t> crush_ranks(int64_t m, int64_t k, CrushRanks ranks) {
  ASHLAR_CHECK(k >= 0 && k <= m);
  std::vector<int64_t> out(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) {
    int64_t& rank = out[static_cast<size_t>(i)];
    if (ranks == CrushRanks::kStep) {
      rank = i * (m / k);
    } else if (k == 1) {
      rank = (m - 1) / 2;
    } else {
      rank = (2 * i * (m - 1) + (k - 1)) / (2 * (k - 1));
    }
  }
  return out;
}

CrushSelection select_crush(const CrushRequest& request) { return select(request, nullptr); }

CrushSelection select_crush(const CrushRequest& request, const CrushBits& bits) {
  check(request);
  ASHLAR_CHECK_EQ(bits.pages, middle_pages(request));
  ASHLAR_CHECK_EQ(bits.bits, request.page * bits_per_row(request));
  ASHLAR_CHECK_EQ(std::ssize(bits.packed), bits.pages * bits.words);
  return select(request, &bits);
}

}  // namespace ashlar
