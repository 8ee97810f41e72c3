#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "engine/policy/policy_options.h"
#include "tests/engine/kvcrush_reference.h"

// Policies as their papers have them, slow: every score is recomputed from the whole history when
// it is wanted. Positions instead of slots, no state but the rows held and the queries that were.

namespace ashlar::test {

/// A query row that has run: its position, how many rows it saw, whether it came with a prompt and
/// where that prompt ended.
struct PastQuery {
  int64_t position = 0, seen = 0;
  bool prompt = false;
  int64_t prompt_end = 0;
};

struct ReferenceLane {
  int64_t group = 0, place = 0, places = 1, head = 0;
  std::vector<int64_t> held;       ///< ascending
  std::vector<PastQuery> queries;  ///< all of them
  int64_t compressed = 0;          ///< Scissorhands: queries before this position do not count
  std::vector<int64_t> chosen;     ///< SnapStream: the T region
  /// What query p gives the row at `position`, summed over the lane's buffers, and in how many of
  /// them it is below 1/n.
  std::function<double(int64_t p, int64_t position)> mass;
  std::function<int(int64_t p, int64_t position, int64_t seen)> below;
  /// The same of each KV head of the lane.
  std::function<double(int64_t p, int64_t position, int64_t head)> head_mass;
  std::function<int(int64_t p, int64_t position, int64_t seen, int64_t head)> head_below;
  int64_t readers = 1, heads = 1;

  int64_t newest() const { return held.back(); }
};

class ReferencePolicy {
 public:
  explicit ReferencePolicy(const PolicyOptions& options) : o(options) {}

  /// The step that ended a prompt, or brought a decoded row, is over.
  void act(ReferenceLane& lane, bool prompt_end) const {
    if (o.name == "snapstream") return snapstream(lane, prompt_end);
    if (o.name == "snapkv" || o.name == "pyramidkv") {
      if (prompt_end) drop_to(lane, budget(lane), snap_scores(lane));
      return;
    }
    if (o.name == "scissorhands") return scissorhands(lane);
    if (o.name == "kvcrush") return kvcrush(lane, prompt_end);
    const int64_t most = budget(lane), m = std::max<int64_t>(1, o.drop);
    if (!passed(lane, most)) return;
    drop_to(lane, most + 1 - m, scores(lane));
  }

 private:
  using Scores = std::map<int64_t, double>;

  bool passed(const ReferenceLane& lane, int64_t most) const {
    return lane.newest() + 1 > o.budget && static_cast<int64_t>(lane.held.size()) > most;
  }

  /// Rows the lane may hold, from the formulas: "a,b,c" weights, falling and rising ones by β.
  int64_t budget(const ReferenceLane& lane) const {
    const auto places = static_cast<double>(lane.places);
    const int64_t fixed = o.sink + o.recent, spare = o.budget - fixed;
    std::string layers = o.layers;
    if (layers.empty()) layers = o.name == "pyramidkv" ? "falling" : "uniform";
    if (layers == "uniform" || lane.places == 1) return o.budget;
    std::vector<double> ideal;
    if (layers.starts_with("falling") || layers.starts_with("rising")) {
      const size_t colon = layers.find(':');
      const double beta = colon == std::string::npos ? 20 : std::stod(layers.substr(colon + 1));
      double low = static_cast<double>(spare) / beta, high = 2.0 * static_cast<double>(spare) - low;
      if (o.name == "pyramidkv") {
        high = std::min(high, static_cast<double>(lane.newest() + 1 - fixed));
        low = 2.0 * static_cast<double>(spare) - high;
      }
      for (int64_t l = 0; l < lane.places; ++l) {
        ideal.push_back(high - static_cast<double>(l) * (high - low) / (places - 1));
      }
      if (layers.starts_with("rising")) std::reverse(ideal.begin(), ideal.end());
    } else {
      double total = 0;
      for (size_t at = 0; at <= layers.size(); at = layers.find(',', at) + 1) {
        ideal.push_back(std::stod(layers.substr(at)));
        total += ideal.back();
        if (layers.find(',', at) == std::string::npos) break;
      }
      for (double& x : ideal) x *= static_cast<double>(spare) * places / total;
    }
    // Rounded down, then the largest rests up until the sum is right.
    std::vector<int64_t> rows;
    int64_t left = spare * lane.places;
    for (const double x : ideal) {
      rows.push_back(static_cast<int64_t>(std::floor(x + 1e-9)));
      left -= rows.back();
    }
    std::vector<bool> raised(rows.size());
    for (; left > 0; --left) {
      size_t best = rows.size();
      for (size_t g = 0; g < rows.size(); ++g) {
        if (raised[g]) continue;
        const double rest = ideal[g] - static_cast<double>(rows[g]);
        if (best == rows.size() || rest > ideal[best] - static_cast<double>(rows[best]) + 1e-9)
          best = g;
      }
      raised[best] = true;
      ++rows[best];
    }
    return rows[static_cast<size_t>(lane.place)] + fixed;
  }

  /// Removes the unprotected row of least score, the oldest of equals, until `rows` are left.
  void drop_to(ReferenceLane& lane, int64_t rows, const Scores& scores) const {
    if (lane.newest() + 1 <= o.budget) return;
    const int64_t newest = lane.newest();
    while (static_cast<int64_t>(lane.held.size()) > rows) {
      auto worst = lane.held.end();
      for (auto row = lane.held.begin(); row != lane.held.end(); ++row) {
        if (*row < o.sink || *row > newest - o.recent) continue;
        if (worst == lane.held.end() || scores.at(*row) < scores.at(*worst)) worst = row;
      }
      lane.held.erase(worst);
    }
  }

  static double number(double score) {
    return std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
  }

  Scores scores(const ReferenceLane& lane) const {
    Scores out;
    const Philox rng(o.seed.value_or(0),
                     static_cast<uint64_t>(lane.group) << 32 | static_cast<uint64_t>(lane.head));
    for (const int64_t row : lane.held) {
      if (o.name == "streaming") out[row] = static_cast<double>(row);
      if (o.name == "random") out[row] = rng.uniform(static_cast<uint64_t>(row));
      if (o.name == "tova") out[row] = number(lane.mass(lane.newest(), row));
      if (o.name != "h2o") continue;
      double sum = 0;
      for (const PastQuery& q : lane.queries) {
        if (q.position >= row) sum += lane.mass(q.position, row);
      }
      out[row] = number(sum);
    }
    return out;
  }

  /// The last w queries before now that no compression has used. Where a later prompt came in
  /// between, those that count are still without a gap.
  std::vector<PastQuery> last_queries(const ReferenceLane& lane, int64_t most) const {
    std::vector<PastQuery> counted;
    for (auto q = lane.queries.rbegin(); q != lane.queries.rend(); ++q) {
      const bool last_of_prompt = !q->prompt || q->position >= q->prompt_end - o.window;
      const bool before_compression =
          q->seen > most + 1 - o.window && q->position >= o.budget + 1 - o.window;
      if (q->position < lane.compressed || !last_of_prompt || !before_compression) break;
      counted.push_back(*q);
    }
    return counted;
  }

  /// What is dropped at once; `part`: of the budget, where the options do not say it.
  int64_t chunk(int64_t most, int64_t part) const {
    if (o.drop > 0) return o.drop;
    return std::max<int64_t>(1, std::min(most / part, most + 1 - o.sink - o.recent));
  }

  /// low[j] over those queries.
  void scissorhands(ReferenceLane& lane) const {
    const int64_t most = budget(lane);
    if (!passed(lane, most)) return;
    const std::vector<PastQuery> counted = last_queries(lane, most);
    Scores value;
    for (const int64_t row : lane.held) {
      double low = 0, saw = 0;
      for (const PastQuery& q : counted) {
        if (q.position < row) continue;
        low += lane.below(q.position, row, q.seen);
        saw += static_cast<double>(lane.readers);
      }
      value[row] = -(o.by_age && saw > 0 ? low / saw : low);
    }
    drop_to(lane, most + 1 - chunk(most, 2), value);
    lane.compressed = lane.newest() + 1;
  }

  /// A prompt's end leaves the budget, a decoded row that passes it a quarter less.
  void kvcrush(ReferenceLane& lane, bool prompt_end) const {
    const int64_t most = budget(lane);
    if (!passed(lane, most)) return;
    const CrushOptions crush = o.crush.value_or(CrushOptions{});
    const bool all = crush.scorer == CrushScorer::kH2o;
    const std::vector<PastQuery> queries = all ? lane.queries : last_queries(lane, most);
    std::vector<float> scores;
    for (int64_t h = 0; h < lane.heads; ++h) {
      for (const int64_t row : lane.held) {
        double sum = 0, saw = 0;
        for (const PastQuery& q : queries) {
          if (q.position < row) continue;
          sum += crush.scorer == CrushScorer::kScissorhands
                     ? -lane.head_below(q.position, row, q.seen, h)
                     : lane.head_mass(q.position, row, h);
          saw += static_cast<double>(lane.readers);
        }
        scores.push_back(static_cast<float>(o.by_age ? sum / saw : sum));
      }
    }
    const auto held = [&](const auto& which) {
      return std::count_if(lane.held.begin(), lane.held.end(), which);
    };
    CrushRequest request;
    request.rows = std::ssize(lane.held);
    request.heads = lane.heads;
    request.scores = scores;
    request.sink = held([&](int64_t row) { return row < o.sink; });
    request.recent = held([&](int64_t row) { return row > lane.newest() - o.recent; });
    request.page = crush.page;
    request.budget = prompt_end ? most : most + 1 - chunk(most, 4);
    request.representatives = crush.ratio;
    request.feature = crush.features;
    request.anchor = crush.anchor;
    request.seed = o.seed.value_or(0);
    request.draw = (static_cast<uint64_t>(lane.group) << 32) + static_cast<uint64_t>(lane.newest());
    const std::vector<CrushRole> roles = CrushReference(request).roles();
    const int64_t newest = lane.newest();
    std::vector<int64_t> kept;
    for (size_t i = 0; i < roles.size(); ++i) {
      if (roles[i] != CrushRole::kDropped) kept.push_back(lane.held[i]);
    }
    lane.held = kept;
    if (!prompt_end) lane.compressed = newest + 1;
  }

  /// Pooled sums over the last w queries of the prompt that has just ended.
  Scores snap_scores(const ReferenceLane& lane) const {
    std::vector<int64_t> rows;
    for (const int64_t row : lane.held) {
      if (row <= lane.newest() - o.recent) rows.push_back(row);
    }
    std::vector<double> sums;
    for (const int64_t row : rows) {
      double sum = 0;
      for (const PastQuery& q : lane.queries) {
        const bool asked =
            q.position > lane.newest() - o.window && q.prompt && q.prompt_end == lane.newest() + 1;
        if (asked && q.position >= row) sum += lane.mass(q.position, row);
      }
      sums.push_back(sum);
    }
    const bool max = o.pool == PoolKind::kMax;
    const auto n = static_cast<int64_t>(rows.size());
    const int64_t half = o.pool == PoolKind::kNone ? 0 : o.pool_rows / 2;
    Scores out;
    for (const int64_t row : lane.held) out[row] = 0;
    for (int64_t i = 0; i < n; ++i) {
      double best = -std::numeric_limits<double>::infinity(), sum = 0;
      for (int64_t j = i - half; j <= i + half; ++j) {
        if (j < 0 || j >= n || std::isnan(sums[static_cast<size_t>(j)])) continue;
        best = std::max(best, sums[static_cast<size_t>(j)]);
        sum += sums[static_cast<size_t>(j)];
      }
      out[rows[static_cast<size_t>(i)]] = max ? best : sum / static_cast<double>(2 * half + 1);
    }
    return out;
  }

  /// Sinks, the T region and the ring, by the layout.
  void snapstream(ReferenceLane& lane, bool prompt_end) const {
    const int64_t newest = lane.newest();
    const auto in_ring = [&](int64_t row) { return row > newest - o.recent; };
    if (newest + 1 <= o.budget) return;
    if (prompt_end) {
      drop_to(lane, o.budget, snap_scores(lane));
    } else if (lane.chosen.empty()) {
      // Filled linearly until now: what lies in the region's slots stays there.
      for (int64_t row = o.sink; row < o.budget - o.recent; ++row) lane.chosen.push_back(row);
    }
    if (prompt_end) lane.chosen.clear();
    std::vector<int64_t> kept;
    for (const int64_t row : lane.held) {
      const bool region = std::count(lane.chosen.begin(), lane.chosen.end(), row) > 0;
      if (prompt_end && row >= o.sink && !in_ring(row)) lane.chosen.push_back(row);
      if (prompt_end || row < o.sink || region || in_ring(row)) kept.push_back(row);
    }
    lane.held = kept;
  }

  PolicyOptions o;  // sink, recent, window, pool and pool_rows as numbers, not defaults
};

}  // namespace ashlar::test
