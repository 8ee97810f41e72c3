#include "engine/policy/oracle.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "engine/policy/policy_uses.h"
#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

class Oracle final : public DropsLeast {
 public:
  Oracle(RowBudget rows, std::shared_ptr<const FutureAttention> future)
      : DropsLeast({.per_head = true}, std::move(rows)), future_(std::move(future)) {}

 private:
  std::function<double(int64_t)> values(const LaneView& lane) const override {
    const auto future = future_->after(lane.group, lane.head, lane.newest);
    return [&lane, future](int64_t slot) {
      const auto position = static_cast<size_t>(lane.positions[static_cast<size_t>(slot)]);
      const double mass = position < future.size() ? future[position] : 0;
      return std::isnan(mass) ? -1.0 : mass;
    };
  }

  std::shared_ptr<const FutureAttention> future_;
};

}  // namespace

void FutureAttention::add(int64_t group, int64_t head, int64_t query,
                          std::span<const float> probabilities) {
  ASHLAR_CHECK(!sealed_);
  Head& own = heads_[{group, head}];
  ASHLAR_CHECK(own.queries.empty() || own.queries.back() < query);
  own.queries.push_back(query);
  own.sums.emplace_back(probabilities.begin(), probabilities.end());
}

void FutureAttention::seal() {
  ASHLAR_CHECK(!sealed_);
  sealed_ = true;
  for (auto& [id, head] : heads_) {
    for (size_t i = head.sums.size(); i-- > 1;) {
      const std::vector<double>& later = head.sums[i];
      std::vector<double>& sums = head.sums[i - 1];
      sums.resize(std::max(sums.size(), later.size()));
      for (size_t row = 0; row < later.size(); ++row) sums[row] += later[row];
    }
  }
}

std::span<const double> FutureAttention::after(int64_t group, int64_t head, int64_t newest) const {
  ASHLAR_CHECK(sealed_);
  const auto found = heads_.find({group, head});
  if (found == heads_.end()) return {};
  const Head& own = found->second;
  const auto first = std::upper_bound(own.queries.begin(), own.queries.end(), newest);
  if (first == own.queries.end()) return {};
  return own.sums[static_cast<size_t>(first - own.queries.begin())];
}

int64_t FutureAttention::bytes() const {
  size_t numbers = 0;
  for (const auto& [id, head] : heads_) {
    for (const auto& sums : head.sums) numbers += sums.size();
  }
  return static_cast<int64_t>(numbers * sizeof(double));
}

std::shared_ptr<const FutureAttention> nothing_to_come() {
  auto future = std::make_shared<FutureAttention>();
  future->seal();
  return future;
}

std::unique_ptr<Policy> make_oracle(const PolicyOptions& options, std::span<const KvGroup> groups,
                                    std::shared_ptr<const FutureAttention> future) {
  ASHLAR_CHECK(future != nullptr);
  check_policy_options(options, kUsesDrop | kUsesLayers);
  const size_t governed = governed_groups(groups).size();
  return std::make_unique<Oracle>(rows_one_by_one(options, governed, 1), std::move(future));
}

}  // namespace ashlar
