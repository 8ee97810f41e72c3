#include "engine/policy/row_budget.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

double positive(const std::string& text, const std::string& layers) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  require(error == std::errc{} && stop == end && std::isfinite(value) && value > 0 && value < 1e9,
          ErrorCode::kRequest, "--kv-layers {}: '{}' is no positive number", layers, text);
  return value;
}

double beta_of(const std::string& layers, size_t kind) {
  constexpr double kPyramidBeta = 20;
  if (kind == layers.size()) return kPyramidBeta;
  const double beta = positive(layers.substr(kind + 1), layers);
  require(beta >= 1, ErrorCode::kRequest,
          "--kv-layers {}: a β below 1 would turn the order round; use 1 (uniform) or more",
          layers);
  return beta;
}

}  // namespace

std::vector<double> falling_weights(double beta, size_t groups) {
  std::vector<double> weights(groups, 1.0);
  for (size_t g = 0; g < groups && groups > 1; ++g) {
    const double down = static_cast<double>(g) / static_cast<double>(groups - 1);
    weights[g] = (2 - 1 / beta) - down * (2 - 2 / beta);
  }
  return weights;
}

std::vector<double> layer_weights(const std::string& layers, size_t groups) {
  if (layers.empty() || layers == "uniform") return std::vector<double>(groups, 1.0);
  const size_t kind = std::min(layers.find(':'), layers.size());
  const std::string name = layers.substr(0, kind);
  if (name == "falling" || name == "rising") {
    std::vector<double> weights = falling_weights(beta_of(layers, kind), groups);
    if (name == "rising") std::reverse(weights.begin(), weights.end());
    return weights;
  }
  std::vector<double> weights;
  for (size_t at = 0; at <= layers.size();) {
    const size_t end = std::min(layers.find(',', at), layers.size());
    weights.push_back(positive(layers.substr(at, end - at), layers));
    at = end + 1;
  }
  require(weights.size() == groups, ErrorCode::kRequest,
          "--kv-layers {}: {} weights, but policies govern {} groups of layers in this model",
          layers, weights.size(), groups);
  const double mean =
      std::accumulate(weights.begin(), weights.end(), 0.0) / static_cast<double>(groups);
  for (double& weight : weights) weight /= mean;
  return weights;
}

std::vector<int64_t> share_out(std::span<const double> weights, int64_t budget, int64_t fixed) {
  const size_t groups = weights.size();
  const int64_t spare = std::max<int64_t>(0, budget - fixed);
  std::vector<int64_t> rows(groups);
  std::vector<double> rest(groups);
  int64_t left = checked_mul(spare, static_cast<int64_t>(groups), "rows of all KV groups");
  for (size_t g = 0; g < groups; ++g) {
    const double share = static_cast<double>(spare) * weights[g];
    rows[g] = std::min(left, static_cast<int64_t>(share));
    rest[g] = share - static_cast<double>(rows[g]);
    left -= rows[g];
  }
  std::vector<size_t> order(groups);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rest[a] > rest[b]; });
  for (size_t i = 0; left > 0; i = (i + 1) % groups, --left) ++rows[order[i]];
  for (int64_t& r : rows) r += budget - spare;
  return rows;
}

RowBudget::RowBudget(const PolicyOptions& options, size_t groups, int64_t recent, int64_t drop,
                     int64_t part)
    : budget_(options.budget), sink_(options.sink), recent_(recent) {
  require(std::max<int64_t>(recent_, 1) <= budget_ - sink_, ErrorCode::kRequest,
          "--kv-policy {}: budget of {} rows is smaller than sink + recent = {} + {}", options.name,
          budget_, sink_, recent_);
  budgets_ = share_out(layer_weights(options.layers, groups), budget_, sink_ + recent_);
  for (const int64_t rows : budgets_) {
    const int64_t most = rows + 1 - sink_ - recent_;
    const int64_t own = drop == -1 ? std::max<int64_t>(1, std::min(rows / part, most)) : drop;
    require(
        own <= most, ErrorCode::kRequest,
        "--kv-policy {}: --kv-drop of {} rows would drop protected ones: {} rows are kept, sink "
        "+ recent = {} + {}",
        options.name, own, rows, sink_, recent_);
    drops_.push_back(own);
  }
}

int64_t RowBudget::beyond(const LaneView& lane) const {
  return lane.newest < budget_ ? 0 : std::max<int64_t>(0, lane.rows() - of(lane.place));
}

int64_t RowBudget::excess(const LaneView& lane) const {
  const int64_t rows = beyond(lane);
  return rows == 0 ? 0 : rows - 1 + drop(lane.place);
}

std::vector<int64_t> RowBudget::candidates(const LaneView& lane) const {
  std::vector<int64_t> slots;
  for (int64_t slot = 0; slot < lane.rows(); ++slot) {
    if (!is_protected(lane, lane.positions[static_cast<size_t>(slot)])) slots.push_back(slot);
  }
  return slots;
}

void score_before_drops(const RowBudget& rows, int64_t window, PolicyNeeds& needs) {
  needs.prompt_rows = window;
  for (const int64_t budget : rows.all()) {
    needs.scored_above.push_back(std::max<int64_t>(0, budget + 1 - window));
  }
  needs.scored_beyond = std::max<int64_t>(0, rows.budget() + 1 - window);
}

std::vector<int32_t> slots_by_position(std::span<const int32_t> positions) {
  constexpr int kDigit = 11;
  std::vector<int32_t> order(positions.size()), next(positions.size());
  std::iota(order.begin(), order.end(), 0);
  if (std::is_sorted(positions.begin(), positions.end())) return order;
  const int32_t largest = *std::max_element(positions.begin(), positions.end());
  // By one digit after the other from the lowest, each by counting.
  for (int shift = 0; shift < 31 && (largest >> shift) > 0; shift += kDigit) {
    const auto digit = [&](int32_t slot) {
      const int32_t position = positions[static_cast<size_t>(slot)];
      return static_cast<size_t>((position >> shift) & ((1 << kDigit) - 1));
    };
    std::array<int32_t, (1 << kDigit) + 1> begin{};
    for (const int32_t slot : order) ++begin[digit(slot) + 1];
    for (size_t d = 1; d < begin.size(); ++d) begin[d] += begin[d - 1];
    for (const int32_t slot : order) next[static_cast<size_t>(begin[digit(slot)]++)] = slot;
    order.swap(next);
  }
  return order;
}

int64_t rows_of_tokens(std::span<const KvGroup> governed, int64_t tokens) {
  return governed.empty() ? tokens : ceil_div(tokens, governed.front().entry_tokens);
}

int64_t default_rows(const PolicyOptions& options, std::span<const KvGroup> governed,
                     int64_t tokens) {
  const int64_t half = (options.budget - options.sink) / 2;
  return std::max<int64_t>(1, std::min(rows_of_tokens(governed, tokens), half));
}

std::vector<int64_t> least_slots(const LaneView& lane, std::vector<int64_t> candidates,
                                 int64_t count, const std::function<double(int64_t)>& value) {
  ASHLAR_CHECK(count >= 0 && count <= static_cast<int64_t>(candidates.size()));
  struct Ranked {
    double value;
    int32_t position;
    int64_t slot;
  };
  std::vector<Ranked> ranked;
  ranked.reserve(candidates.size());
  for (const int64_t slot : candidates) {
    ranked.push_back({value(slot), lane.positions[static_cast<size_t>(slot)], slot});
  }
  const auto lesser = [](const Ranked& a, const Ranked& b) {
    return a.value != b.value ? a.value < b.value : a.position < b.position;
  };
  if (count > 0)
    std::nth_element(ranked.begin(), ranked.begin() + (count - 1), ranked.end(), lesser);
  candidates.clear();
  for (int64_t i = 0; i < count; ++i) candidates.push_back(ranked[static_cast<size_t>(i)].slot);
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

void DropsLeast::select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const {
  for (size_t i = 0; i < lanes.size(); ++i) {
    const LaneView& lane = lanes[i];
    const int64_t excess = rows_.excess(lane);
    if (excess == 0) continue;
    edits[i].drop = least_slots(lane, rows_.candidates(lane), excess, values(lane));
  }
}

std::function<double(int64_t)> DropsLeastScored::values(const LaneView& lane) const {
  return [&lane](int64_t slot) { return worth(lane.scores[static_cast<size_t>(slot)]); };
}

RowBudget rows_one_by_one(const PolicyOptions& options, size_t groups, int64_t recent) {
  return {options, groups, options.recent >= 0 ? options.recent : recent,
          std::max<int64_t>(1, options.drop)};
}

}  // namespace ashlar
