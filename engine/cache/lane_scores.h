#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/policy/policy.h"

namespace ashlar {

/// What attention adds to for the rows of a tile: one number per slot each, or null.
struct ScoreRows {
  float* sums = nullptr;
  float* counts = nullptr;
  int64_t from = 0;               ///< rows of the tile before this one add nothing
  const uint8_t* rows = nullptr;  ///< AttentionTask::score_rows
  int64_t slots = 0;              ///< slots before this one get nothing, and have no number
};

/// Scores of a lane's slots, apart for every reader and head: they run one after the other over a
/// step's rows, so a shared sum would depend on how the rows are cut into steps. With provisional
/// rows also the scores as they were after each of them.
///
/// The query rows that score form one run up to the newest that did (PolicyNeeds): a row that
/// scores where the run does not reach begins a new one, from zero. Without a run there are no
/// numbers to keep, and none are kept.
class LaneScores {
 public:
  LaneScores() = default;
  /// One buffer per reader and head of the lane.
  LaneScores(ScoreReducer reducer, int64_t readers, int64_t heads);

  /// The same scores in as much memory; between steps.
  LaneScores fork() const;

  bool any() const { return !now_.empty(); }
  int64_t table_bytes() const;
  /// Buffers, each of one number per slot while there is a run.
  int64_t buffers() const { return static_cast<int64_t>(now_.size()); }

  /// Query rows in the run, and the position behind it.
  int64_t scored_rows() const { return scored_rows_; }
  int64_t scored_end() const { return scored_end_; }
  /// The row at `p` begins a new run.
  bool begins_at(int64_t p) const {
    return reducer_ == ScoreReducer::kLast || scored_rows_ == 0 || scored_end_ != p;
  }
  /// Rows [from, end) have scored.
  void advance(int64_t from, int64_t end);
  /// There is no run any more.
  void forget();

  /// `slots` slots from now on; new ones have score 0. Nothing while there is no run, unless
  /// `scores`: a row of the step under way does.
  void resize(int64_t slots, bool scores = false);
  void move(int64_t from, int64_t to);
  /// Takes no more memory than `slots` slots need.
  void fit(int64_t slots);

  /// Buffer `buffer` for a tile of query rows; `anew`: from zero.
  ScoreRows add_to(int64_t buffer, bool anew);
  /// The same for provisional row number `row` over `slots` slots, a tile of its own, which adds
  /// nothing unless it `scores`.
  ScoreRows hold(int64_t buffer, int64_t row, int64_t slots, bool scores, bool anew);
  /// Forgets what rows from `rows` on left.
  void truncate_held(int64_t rows);
  /// The scores after the last provisional row become the lane's.
  void adopt_held(int64_t slots);

  /// Over readers and heads, in `scratch` unless one buffer says it all; empty where the reducer
  /// has none.
  std::span<const float> sums(int64_t slots, std::vector<float>& scratch) const;
  std::span<const float> counts(int64_t slots, std::vector<float>& scratch) const;
  /// Over readers, [heads, slots], in `scratch`; likewise.
  std::span<const float> head_sums(int64_t slots, std::vector<float>& scratch) const;
  std::span<const float> head_counts(int64_t slots, std::vector<float>& scratch) const;

  const std::vector<std::vector<float>>& image() const { return now_; }
  void load(std::vector<std::vector<float>> image, int64_t scored_rows, int64_t scored_end);

 private:
  using Buffer = std::vector<float>;

  size_t channels() const { return reducer_ == ScoreReducer::kSumAndCount ? 2 : 1; }
  int sum_channel() const { return reducer_ == ScoreReducer::kCountBelow ? -1 : 0; }
  int count_channel() const;
  ScoreRows rows_of(float* first, float* second) const;
  std::span<const float> total(int channel, int64_t slots, Buffer& scratch) const;
  std::span<const float> by_head(int channel, int64_t slots, Buffer& scratch) const;

  ScoreReducer reducer_ = ScoreReducer::kNone;
  int64_t heads_ = 0;
  int64_t scored_rows_ = 0, scored_end_ = 0;
  std::vector<Buffer> now_;                // [reader · heads · channels], each per slot
  std::vector<std::vector<Buffer>> held_;  // likewise, per provisional row
};

}  // namespace ashlar
