#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

// ArkVale once more, slowly and in double precision, from the paper's equations 1–4 and its state
// machine: slots that hold pages, and for each page its slot or none.

namespace ashlar::test {

using Vectors = std::vector<std::vector<double>>;

/// Estimated max q·k over some keys, for one query.
inline double reference_estimate(const std::string& digest, const Vectors& keys,
                                 const std::vector<double>& q) {
  const size_t dim = q.size();
  std::vector<double> high(dim, -1e300), low(dim, 1e300), centre(dim);
  for (const auto& key : keys) {
    for (size_t i = 0; i < dim; ++i) {
      high[i] = std::max(high[i], key[i]);
      low[i] = std::min(low[i], key[i]);
    }
  }
  for (size_t i = 0; i < dim; ++i) centre[i] = (high[i] + low[i]) / 2;
  const auto radius = [&](const std::vector<double>& distances) {
    const auto [least, most] = std::minmax_element(distances.begin(), distances.end());
    if (digest.ends_with("max")) return *most;
    if (digest.ends_with("center")) return (*least + *most) / 2;
    double sum = 0;
    for (const double d : distances) sum += d;
    return sum / static_cast<double>(distances.size());
  };
  double score = 0;
  if (digest.starts_with("sphere")) {
    std::vector<double> distances;
    for (const auto& key : keys) {
      double square = 0;
      for (size_t i = 0; i < dim; ++i) square += std::pow(centre[i] - key[i], 2);
      distances.push_back(std::sqrt(square));
    }
    double norm = 0;
    for (size_t i = 0; i < dim; ++i) {
      score += q[i] * centre[i];
      norm += q[i] * q[i];
    }
    return score + radius(distances) * std::sqrt(norm);
  }
  for (size_t i = 0; i < dim; ++i) {
    std::vector<double> distances;
    for (const auto& key : keys) distances.push_back(std::abs(centre[i] - key[i]));
    const double r = radius(distances);
    score += std::max(q[i] * (centre[i] + r), q[i] * (centre[i] - r));
  }
  return score;
}

/// One lane.
class ReferenceArkvale {
 public:
  struct Options {
    std::string digest;
    int64_t page_rows, digest_rows;
    int64_t budget;                        // rows
    int64_t pages, sinks, window, ranked;  // pages, as the paper counts
    int64_t every;
  };
  explicit ReferenceArkvale(const Options& options) : o_(options) {}

  /// A page is filled: keys[head][row]. It goes to a slot of its own.
  void fill(const std::vector<Vectors>& keys) {
    keys_.push_back(keys);
    slot_of_.push_back(static_cast<int64_t>(page_in_.size()));
    page_in_.push_back(static_cast<int64_t>(keys_.size()) - 1);
  }

  /// Scores of all filled pages for the queries of all heads.
  std::vector<double> scores(const Vectors& queries) const {
    std::vector<double> out;
    for (const auto& page : keys_) {
      double sum = 0;
      for (size_t h = 0; h < queries.size(); ++h) {
        const Vectors& keys = page[h / (queries.size() / page.size())];
        double best = -std::numeric_limits<double>::infinity();
        for (int64_t row = 0; row < o_.page_rows; row += o_.digest_rows) {
          const Vectors unit(keys.begin() + row, keys.begin() + row + o_.digest_rows);
          const double own = reference_estimate(o_.digest, unit, queries[h]);
          if (std::isnan(own)) return std::vector<double>(keys_.size(), -1e300);
          best = std::max(best, own);
        }
        sum += best;
      }
      out.push_back(sum / static_cast<double>(queries.size()));
    }
    return out;
  }

  /// Whether the query at `position` selects.
  bool selects(int64_t position, bool prompt_end) const {
    if (position + 1 <= o_.budget) return false;
    return prompt_end || position % o_.every == 0 || resident() > o_.pages - 1;
  }

  /// The selection of a query that scores all filled pages so. Returns those that were recalled.
  std::set<int64_t> select(const std::vector<double>& s, bool prompt_end) {
    const auto n = static_cast<int64_t>(s.size());
    const auto free_to_go = [&](int64_t page) {
      return page >= o_.sinks && page < n - (o_.window - 1);
    };
    const auto before = [&](int64_t a, int64_t b) {  // a is better
      const double x = s[static_cast<size_t>(a)], y = s[static_cast<size_t>(b)];
      return x != y ? x > y : a > b;
    };
    std::vector<int64_t> order;
    for (int64_t page = 0; page < n; ++page) {
      if (free_to_go(page)) order.push_back(page);
    }
    std::sort(order.begin(), order.end(), before);
    int64_t kept = 0;
    for (int64_t page = 0; page < n; ++page) kept += free_to_go(page) ? 0 : 1;
    const int64_t room = o_.pages - 1 - kept;
    const int64_t top = prompt_end ? room : o_.ranked;
    std::set<int64_t> wanted(order.begin(),
                             order.begin() + std::min<int64_t>(top, std::ssize(order)));
    std::set<int64_t> misses;
    for (const int64_t page : wanted) {
      if (slot_of_[static_cast<size_t>(page)] < 0) misses.insert(page);
    }
    // As many victims as there are misses, and what is beyond the budget: from the worst up.
    int64_t victims = resident() + std::ssize(misses) - (o_.pages - 1);
    for (auto page = order.rbegin(); page != order.rend() && victims > 0; ++page) {
      if (slot_of_[static_cast<size_t>(*page)] < 0 || wanted.contains(*page)) continue;
      evict(*page);
      --victims;
    }
    for (const int64_t page : misses) {
      slot_of_[static_cast<size_t>(page)] = static_cast<int64_t>(page_in_.size());
      page_in_.push_back(page);
    }
    return misses;
  }

  std::vector<int32_t> resident_pages() const {
    std::vector<int32_t> out(page_in_.begin(), page_in_.end());
    std::sort(out.begin(), out.end());
    return out;
  }
  int64_t resident() const { return std::ssize(page_in_); }
  int64_t pages() const { return std::ssize(keys_); }
  /// Each resident page is in one slot, and the maps are inverse.
  bool consistent() const {
    int64_t held = 0;
    for (size_t page = 0; page < slot_of_.size(); ++page) {
      if (slot_of_[page] < 0) continue;
      ++held;
      if (page_in_[static_cast<size_t>(slot_of_[page])] != static_cast<int64_t>(page)) return false;
    }
    return held == resident();
  }

 private:
  void evict(int64_t page) {
    const int64_t slot = slot_of_[static_cast<size_t>(page)];
    const int64_t moved = page_in_.back();
    page_in_[static_cast<size_t>(slot)] = moved;
    slot_of_[static_cast<size_t>(moved)] = slot;
    page_in_.pop_back();
    slot_of_[static_cast<size_t>(page)] = -1;
  }

  Options o_;
  std::vector<std::vector<Vectors>> keys_;  // [page][head][row][dim]
  std::vector<int64_t> slot_of_;            // by page, −1: in the backup alone
  std::vector<int64_t> page_in_;            // by slot
};

}  // namespace ashlar::test
