#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/base/rng.h"
#include "engine/policy/kvcrush_select.h"

namespace ashlar::test {

/// KVCrush step by step as the header of kvcrush_select.h words it: vectors of bool, whole sorts,
/// nothing shared with the code but the request.
class CrushReference {
 public:
  explicit CrushReference(const CrushRequest& request) : q_(request) {
    for (int64_t row = q_.sink; row < q_.rows - q_.recent; ++row) candidates_.push_back(row);
    for (size_t i = 0; i < candidates_.size(); i += static_cast<size_t>(q_.page)) {
      const size_t end = std::min(candidates_.size(), i + static_cast<size_t>(q_.page));
      pages_.emplace_back(candidates_.begin() + static_cast<int64_t>(i),
                          candidates_.begin() + static_cast<int64_t>(end));
    }
  }

  static double number(double x) { return std::isnan(x) ? -INFINITY : x; }

  double score(int64_t head, int64_t row) const {
    return number(q_.scores[static_cast<size_t>(head * q_.rows + row)]);
  }
  double importance(int64_t row) const {
    if (!q_.importance.empty()) return number(q_.importance[static_cast<size_t>(row)]);
    double sum = 0;
    for (int64_t h = 0; h < q_.heads; ++h) {
      sum += static_cast<double>(q_.scores[static_cast<size_t>(h * q_.rows + row)]);
    }
    return number(sum);
  }
  double page_importance(const std::vector<int64_t>& page) const {
    double sum = 0;
    for (const int64_t row : page) sum += importance(row);
    return number(sum);
  }

  /// Indices 0 … n−1 by value, ascending, the older first.
  template <typename Value>
  static std::vector<int64_t> ascending(int64_t n, Value value) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return value(a) < value(b); });
    return order;
  }

  /// Bits of every page, padded with zeros.
  std::vector<std::vector<bool>> bits() const {
    const bool per_head = q_.feature == CrushFeature::kHeadBits;
    const int64_t sets = per_head ? q_.heads : 1;
    const auto n = static_cast<int64_t>(candidates_.size());
    std::vector<std::vector<bool>> out(pages_.size(),
                                       std::vector<bool>(static_cast<size_t>(q_.page * sets)));
    for (int64_t h = 0; h < sets; ++h) {
      const auto order = ascending(n, [&](int64_t i) {
        const int64_t row = candidates_[static_cast<size_t>(i)];
        return per_head ? score(h, row) : importance(row);
      });
      for (int64_t rank = n - n / 2; rank < n; ++rank) {
        const int64_t i = order[static_cast<size_t>(rank)];
        out[static_cast<size_t>(i / q_.page)][static_cast<size_t>(i % q_.page * sets + h)] = true;
      }
    }
    return out;
  }

  std::vector<bool> anchor(const std::vector<std::vector<bool>>& pages) const {
    std::vector<bool> out(pages[0].size());
    const Philox rng(q_.seed, q_.draw);
    for (size_t i = 0; i < out.size(); ++i) {
      int64_t ones = 0;
      for (const auto& page : pages) ones += page[i];
      const double mean = static_cast<double>(ones) / static_cast<double>(pages.size());
      switch (q_.anchor) {
        case CrushAnchor::kZeros:
          out[i] = false;
          break;
        case CrushAnchor::kOnes:
          out[i] = true;
          break;
        case CrushAnchor::kMean:
          out[i] = mean > 0.5;
          break;
        case CrushAnchor::kInverseMean:
          out[i] = mean < 0.5;
          break;
        case CrushAnchor::kAlternate:
          out[i] = i % 2 != 0;
          break;
        case CrushAnchor::kRandom:
          out[i] = (rng.bits(i / 64) >> (i % 64)) % 2 != 0;
          break;
      }
    }
    return out;
  }

  std::vector<int64_t> distances() const {
    const auto features = bits();
    std::vector<int64_t> out;
    const auto from = anchor(features);
    for (const auto& page : features) {
      int64_t distance = 0;
      for (size_t i = 0; i < from.size(); ++i) distance += page[i] != from[i];
      out.push_back(distance);
    }
    return out;
  }

  std::vector<CrushRole> roles() const {
    std::vector<CrushRole> out(static_cast<size_t>(q_.rows), CrushRole::kProtected);
    if (q_.budget >= q_.rows) {
      for (const int64_t row : candidates_) out[static_cast<size_t>(row)] = CrushRole::kImportant;
      return out;
    }
    const auto give = [&](const std::vector<int64_t>& rows, CrushRole role) {
      for (const int64_t row : rows) out[static_cast<size_t>(row)] = role;
    };
    give(candidates_, CrushRole::kDropped);
    const int64_t middle = q_.budget - q_.sink - q_.recent;
    const int64_t whole = middle / q_.page;
    const double share = std::floor(static_cast<double>(middle) * q_.representatives + 0.5);
    int64_t representatives = static_cast<int64_t>(share) / q_.page;
    if (q_.representatives > 0 && whole > 0 && representatives == 0) representatives = 1;

    const auto n = static_cast<int64_t>(pages_.size());
    std::vector<int64_t> order =
        ascending(n, [&](int64_t p) { return page_importance(pages_[static_cast<size_t>(p)]); });
    std::vector<bool> taken(pages_.size());
    for (int64_t i = 0; i < whole - representatives; ++i) {
      taken[static_cast<size_t>(order[static_cast<size_t>(n - 1 - i)])] = true;
    }
    for (size_t p = 0; p < pages_.size(); ++p) {
      if (taken[p]) give(pages_[p], CrushRole::kImportant);
    }
    if (representatives > 0) {
      const auto far = distances();
      std::vector<int64_t> left;
      for (const int64_t p : ascending(n, [&](int64_t p) { return far[static_cast<size_t>(p)]; })) {
        if (!taken[static_cast<size_t>(p)]) left.push_back(p);
      }
      for (int64_t i = 0; i < representatives; ++i) {
        const int64_t p = left[static_cast<size_t>(rank(std::ssize(left), representatives, i))];
        give(pages_[static_cast<size_t>(p)], CrushRole::kRepresentative);
      }
    }
    fill(out);
    return out;
  }

 private:
  int64_t rank(int64_t m, int64_t k, int64_t i) const {
    if (q_.ranks == CrushRanks::kStep) return i * (m / k);
    if (k == 1) return (m - 1) / 2;
    // Exact in double for the sizes here: i (m − 1) / (k − 1) + 1/2 is at least 1 / (2k − 2) away
    // from the next integer or is one.
    return static_cast<int64_t>(std::floor(static_cast<double>(2 * i * (m - 1) + k - 1) /
                                           static_cast<double>(2 * (k - 1))));
  }

  // Whatever whole pages left of the budget goes to single rows.
  void fill(std::vector<CrushRole>& out) const {
    int64_t kept = std::ssize(out) - std::count(out.begin(), out.end(), CrushRole::kDropped);
    std::vector<int64_t> order = ascending(std::ssize(candidates_), [&](int64_t i) {
      return importance(candidates_[static_cast<size_t>(i)]);
    });
    std::reverse(order.begin(), order.end());
    for (const int64_t i : order) {
      CrushRole& role = out[static_cast<size_t>(candidates_[static_cast<size_t>(i)])];
      if (kept == q_.budget || role != CrushRole::kDropped) continue;
      role = CrushRole::kImportant;
      ++kept;
    }
  }

  const CrushRequest& q_;
  std::vector<int64_t> candidates_;
  std::vector<std::vector<int64_t>> pages_;
};

}  // namespace ashlar::test
