#include "engine/policy/kvcrush_select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr int64_t kMaxPage = int64_t{1} << 20;

// Integers in the order of the numbers, NaN as −∞, both zeros alike.
uint32_t order_key(float x) {
  if (std::isnan(x)) x = -std::numeric_limits<float>::infinity();
  const auto u = std::bit_cast<uint32_t>(x + 0.0f);
  return u ^ (static_cast<uint32_t>(-static_cast<int32_t>(u >> 31)) | 0x80000000u);
}

uint64_t order_key(double x) {
  if (std::isnan(x)) x = -std::numeric_limits<double>::infinity();
  const auto u = std::bit_cast<uint64_t>(x + 0.0);
  return u ^ (static_cast<uint64_t>(-static_cast<int64_t>(u >> 63)) | 0x8000000000000000u);
}

// The count-th largest of the keys, 1 ≤ count ≤ keys, and how many of its equals are among the
// largest `count`. Digit by digit from the top, so that no order of the keys is a slow one.
template <typename Key>
struct Cut {
  Key key = 0;
  int64_t equals = 0;
};

template <typename Key>
Cut<Key> find_cut(std::span<const Key> keys, int64_t count) {
  constexpr int kDigit = 11;
  std::vector<Key> narrowed;
  int64_t histogram[1 << kDigit];
  Key prefix = 0;
  for (int top = std::numeric_limits<Key>::digits; top > 0;) {
    const int shift = std::max(0, top - kDigit);
    const Key mask = (Key{1} << (top - shift)) - 1;
    std::fill(std::begin(histogram), std::end(histogram), 0);
    for (const Key key : keys) ++histogram[(key >> shift) & mask];
    Key digit = mask;
    while (histogram[digit] < count) count -= histogram[digit--];
    prefix |= digit << shift;
    if (shift > 0) {
      std::vector<Key> next;
      next.reserve(static_cast<size_t>(histogram[digit]));
      for (const Key key : keys) {
        if (((key >> shift) & mask) == digit) next.push_back(key);
      }
      narrowed = std::move(next);
      keys = narrowed;
    }
    top = shift;
  }
  return {prefix, count};
}

// marks[i] = 1 for the largest `count` keys, of equal ones the newest; 0 for the others.
template <typename Key>
void mark_largest(std::span<const Key> keys, int64_t count, std::vector<uint8_t>& marks) {
  marks.assign(keys.size(), 0);
  if (count == 0) return;
  Cut<Key> cut = find_cut(keys, count);
  for (size_t i = 0; i < keys.size(); ++i) marks[i] = keys[i] > cut.key;
  for (size_t i = keys.size(); cut.equals > 0; --i) {
    if (keys[i - 1] != cut.key) continue;
    marks[i - 1] = 1;
    --cut.equals;
  }
}

int64_t middle_rows(const CrushRequest& r) { return r.rows - r.sink - r.recent; }
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
  const uint8_t* mark = marks.data();
  uint64_t* words = pages.packed.data();
  for (int64_t begin = 0; begin < rows; begin += page, words += pages.words) {
    const int64_t end = std::min(rows, begin + page);
    for (int64_t i = begin, bit = offset; i < end; ++i, bit += stride) {
      words[bit >> 6] |= static_cast<uint64_t>(mark[i]) << (bit & 63);
    }
  }
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

// Pages with mark 0 by distance, ascending, the older first: a sort by counting.
std::vector<int64_t> by_distance(std::span<const int64_t> distances,
                                 std::span<const uint8_t> important, int64_t bits) {
  std::vector<int64_t> begin(static_cast<size_t>(bits) + 2, 0);
  int64_t count = 0;
  for (size_t p = 0; p < distances.size(); ++p) {
    if (important[p]) continue;
    ++begin[static_cast<size_t>(distances[p]) + 1];
    ++count;
  }
  for (size_t d = 1; d < begin.size(); ++d) begin[d] += begin[d - 1];
  std::vector<int64_t> order(static_cast<size_t>(count));
  for (size_t p = 0; p < distances.size(); ++p) {
    if (important[p]) continue;
    order[static_cast<size_t>(begin[static_cast<size_t>(distances[p])]++)] =
        static_cast<int64_t>(p);
  }
  return order;
}

// Chooses whole pages and returns the role of each.
std::vector<CrushRole> choose_pages(const CrushRequest& r, std::span<const double> importance) {
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
  const CrushBits bits = crush_bits(r);
  const std::vector<int64_t> distances = crush_distances(bits, crush_anchor(bits, r));
  const std::vector<int64_t> order = by_distance(distances, important, bits.bits);
  for (const int64_t rank : crush_ranks(std::ssize(order), split.representatives, r.ranks)) {
    roles[static_cast<size_t>(order[static_cast<size_t>(rank)])] = CrushRole::kRepresentative;
  }
  return roles;
}

// Roles of the candidates: whole pages, then the best single rows up to `free` rows.
void choose_rows(const CrushRequest& r, int64_t free, std::span<CrushRole> middle) {
  const std::vector<double> importance = candidate_importance(r);
  const std::vector<CrushRole> pages = choose_pages(r, importance);
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

}  // namespace

CrushBits crush_bits(const CrushRequest& request) {
  check(request);
  ASHLAR_CHECK_GE(middle_rows(request), 0);
  const bool per_head = request.feature == CrushFeature::kHeadBits;
  const int64_t stride = per_head ? request.heads : 1;
  CrushBits out;
  out.pages = middle_pages(request);
  out.bits = request.page * stride;
  out.words = (out.bits + 63) / 64;
  out.packed.assign(static_cast<size_t>(out.pages * out.words), 0);
  const auto count = static_cast<size_t>(middle_rows(request));
  const auto half = static_cast<int64_t>(count / 2);
  std::vector<uint8_t> marks;
  if (per_head) {
    std::vector<uint32_t> keys(count);
    for (int64_t h = 0; h < request.heads; ++h) {
      const float* scores = request.scores.data() + h * request.rows + request.sink;
      for (size_t i = 0; i < count; ++i) keys[i] = order_key(scores[i]);
      mark_largest<uint32_t>(keys, half, marks);
      put_bits(marks, request.page, stride, h, out);
    }
  } else {
    std::vector<uint64_t> keys(count);
    const std::vector<double> importance = candidate_importance(request);
    for (size_t i = 0; i < count; ++i) keys[i] = order_key(importance[i]);
    mark_largest<uint64_t>(keys, half, marks);
    put_bits(marks, request.page, stride, 0, out);
  }
  return out;
}

std::vector<uint64_t> crush_anchor(const CrushBits& pages, const CrushRequest& request) {
  std::vector<uint64_t> anchor(static_cast<size_t>(pages.words), 0);
  const auto set_where = [&](auto&& holds) {
    for (int64_t bit = 0; bit < pages.bits; ++bit) {
      if (holds(bit)) anchor[static_cast<size_t>(bit >> 6)] |= uint64_t{1} << (bit & 63);
    }
  };
  const auto ones = [&](int64_t bit) {
    int64_t count = 0;
    const uint64_t* word = pages.packed.data() + (bit >> 6);
    for (int64_t p = 0; p < pages.pages; ++p, word += pages.words) {
      count += static_cast<int64_t>((*word >> (bit & 63)) & 1);
    }
    return count;
  };
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

CrushSelection select_crush(const CrushRequest& request) {
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
      choose_rows(request, request.budget - protected_rows, middle);
    }
  }
  for (size_t i = 0; i < roles.size(); ++i) {
    if (roles[i] != CrushRole::kDropped) out.keep.push_back(static_cast<int64_t>(i));
  }
  return out;
}

}  // namespace ashlar
