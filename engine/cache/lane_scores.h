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
};

/// Scores of a lane's slots, apart for every reader and head: they run one after the other over a
/// step's rows, so a shared sum would depend on how the rows are cut into steps. With provisional
/// rows also the scores as they were after each of them.
class LaneScores {
 public:
  LaneScores() = default;
  /// `buffers`: readers × heads of the lane.
  LaneScores(ScoreReducer reducer, int64_t buffers);

  /// The same scores in as much memory; between steps.
  LaneScores fork() const;

  bool any() const { return !now_.empty(); }
  int64_t table_bytes() const;

  /// `slots` slots from now on; new ones have score 0.
  void resize(int64_t slots);
  void move(int64_t from, int64_t to);
  /// Takes no more memory than `slots` slots need.
  void fit(int64_t slots);

  /// Buffer `buffer` for a tile of query rows. `newest`: the tile ends with the step's newest row.
  ScoreRows add_to(int64_t buffer, bool newest);
  /// The same for provisional row number `row` over `slots` slots, a tile of its own.
  ScoreRows hold(int64_t buffer, int64_t row, int64_t slots);
  /// Forgets what rows from `rows` on left.
  void truncate_held(int64_t rows);
  /// The scores after the last provisional row become the lane's.
  void adopt_held(int64_t slots);

  /// Over readers and heads, in `scratch` unless one buffer says it all; empty where the reducer
  /// has none.
  std::span<const float> sums(std::vector<float>& scratch) const;
  std::span<const float> counts(std::vector<float>& scratch) const;

  const std::vector<std::vector<float>>& image() const { return now_; }
  void load(std::vector<std::vector<float>> image);

 private:
  bool afresh() const { return reducer_ == ScoreReducer::kLast; }
  size_t channels() const { return reducer_ == ScoreReducer::kSumAndCount ? 2 : 1; }
  ScoreRows rows_of(float* first, float* second) const;
  std::span<const float> total(size_t channel, std::vector<float>& scratch) const;

  using Buffer = std::vector<float>;
  ScoreReducer reducer_ = ScoreReducer::kNone;
  std::vector<Buffer> now_;                // [buffer · channels], each per slot
  std::vector<std::vector<Buffer>> held_;  // likewise, per provisional row
};

}  // namespace ashlar
