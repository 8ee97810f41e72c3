#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/policy/policy.h"

// What policies share that keep a number of rows: which rows are protected, how many the others may
// be in each group, and how the least of them are dropped.

namespace ashlar {

/// What weighs the budgets of `groups` groups; their mean is 1 (layers of PolicyOptions).
/// "falling:β" is PyramidKV's (arXiv 2406.02069): from 2 − 1/β down to 1/β in equal steps, β 20
/// unless given; "rising:β" the other way round. Throws Error(kRequest) naming `--kv-layers`.
std::vector<double> layer_weights(const std::string& layers, size_t groups);
std::vector<double> falling_weights(double beta, size_t groups);

/// Rows of each group: `fixed` ones, sinks and newest rows, and its weight's share of what the
/// budget leaves beside them. Rounded down, then the largest fractions up (earlier groups first),
/// so that the sum is groups · budget.
std::vector<int64_t> share_out(std::span<const double> weights, int64_t budget, int64_t fixed);

/// Sinks, newest rows and budgets of a policy.
class RowBudget {
 public:
  /// `recent` and `drop`: what the options stand for; drop −1: a `part`-th of each group's budget,
  /// but no protected row. Throws Error(kRequest) where the options contradict one another.
  RowBudget(const PolicyOptions& options, size_t groups, int64_t recent, int64_t drop = 1,
            int64_t part = 2);

  int64_t budget() const { return budget_; }
  int64_t sink() const { return sink_; }
  int64_t recent() const { return recent_; }
  /// Rows kept of the group at `place`.
  int64_t of(int64_t place) const { return budgets_[static_cast<size_t>(place)]; }
  const std::vector<int64_t>& all() const { return budgets_; }
  /// Rows dropped at once of the group at `place`.
  int64_t drop(int64_t place) const { return drops_[static_cast<size_t>(place)]; }

  /// How many rows the lane holds beyond its budget: none while the text is no longer than the mean
  /// budget.
  int64_t beyond(const LaneView& lane) const;

  /// How many rows must go: none up to the lane's budget B, else all but B + 1 − drop, so that the
  /// next `drop` − 1 rows find room. While the text is no longer than the mean budget none must,
  /// whatever the group's own is, so that a budget of the length drops nothing anywhere.
  int64_t excess(const LaneView& lane) const;
  bool is_protected(const LaneView& lane, int64_t position) const {
    return position < sink_ || position > lane.newest - recent_;
  }
  /// Slots that are not protected.
  std::vector<int64_t> candidates(const LaneView& lane) const;

 private:
  int64_t budget_, sink_, recent_;
  std::vector<int64_t> budgets_, drops_;  // by place
};

/// Query rows score that may be among the last `window` before a drop while decoding, and the last
/// `window` of a prompt. A lane drops when it holds one row more than its budget, and never before
/// the text is longer than the mean budget.
void score_before_drops(const RowBudget& rows, int64_t window, PolicyNeeds& needs);

/// Slots in order of the positions they hold, which are different and not negative. Time O(slots).
std::vector<int32_t> slots_by_position(std::span<const int32_t> positions);

/// Tokens in rows of the governed groups, rounded up.
int64_t rows_of_tokens(std::span<const KvGroup> governed, int64_t tokens);
/// The default of a number of tokens, in rows, but at most half of what the budget leaves beside
/// the sinks; at least 1.
int64_t default_rows(const PolicyOptions& options, std::span<const KvGroup> governed,
                     int64_t tokens);

/// The `count` candidates of least value, ascending; of equal ones the older rows. value(slot) must
/// not be NaN (see worth).
std::vector<int64_t> least_slots(const LaneView& lane, std::vector<int64_t> candidates,
                                 int64_t count, const std::function<double(int64_t)>& value);

/// A score as a value: one that is not a number (broken weights) is the least, so that the order
/// stays a strict one.
inline double worth(float score) {
  return std::isnan(score) ? -std::numeric_limits<double>::infinity() : static_cast<double>(score);
}

/// A policy that drops the unprotected rows of least value, as many as the budget asks for.
class DropsLeast : public Policy {
 public:
  DropsLeast(PolicyNeeds needs, RowBudget rows)
      : Policy(std::move(needs)), rows_(std::move(rows)) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const final;

 protected:
  /// What the rows of a lane are worth, by slot; never NaN (see worth).
  virtual std::function<double(int64_t)> values(const LaneView& lane) const = 0;

 private:
  RowBudget rows_;
};

/// One whose rows are worth their scores.
class DropsLeastScored final : public DropsLeast {
 public:
  using DropsLeast::DropsLeast;

 private:
  std::function<double(int64_t)> values(const LaneView& lane) const override;
};

/// A budget of `options` with `recent` newest rows and one row dropped at a time where they say
/// nothing.
RowBudget rows_one_by_one(const PolicyOptions& options, size_t groups, int64_t recent);

}  // namespace ashlar
