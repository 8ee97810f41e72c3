#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/policy/policy.h"
#include "kernels/score_sums.h"

namespace ashlar {

/// What attention adds to for the rows of a tile: numbers per slot.
struct ScoreRows {
  ScoreSums sums = {};            ///< null where nobody wants them
  uint32_t* counts = nullptr;     ///< likewise
  int64_t from = 0;               ///< rows of the tile before this one add nothing
  const uint8_t* rows = nullptr;  ///< AttentionTask::score_rows
  int64_t slots = 0;              ///< slots before this one get nothing, and have no number
};

/// Which numbers a lane keeps per slot: sums in two tables (kernels/score_sums.h), counts in one.
struct ScoreKind {
  ScoreReducer reducer = ScoreReducer::kNone;
  bool by_head = false;  ///< of each KV head apart

  ScoreKind() = default;
  explicit ScoreKind(const PolicyNeeds& needs)
      : reducer(needs.reducer), by_head(needs.head_scores) {}
  bool sums() const {
    return reducer != ScoreReducer::kNone && reducer != ScoreReducer::kCountBelow;
  }
  bool counts() const {
    return reducer == ScoreReducer::kCountBelow || reducer == ScoreReducer::kSumAndCount;
  }
  /// Tables of a lane of `heads` KV heads.
  int64_t tables(int64_t heads) const {
    return (by_head ? heads : 1) * ((sums() ? 2 : 0) + (counts() ? 1 : 0));
  }
};

/// Scores of a lane's slots. Layers, heads and query rows add to one number in any order, since
/// whole numbers add up to the same. Those of provisional rows are kept apart, row by row.
///
/// The query rows that score form one run up to the newest that did (PolicyNeeds): a row that
/// scores where the run does not reach begins a new one, from zero. Without a run there are no
/// numbers to keep, and none are kept.
class LaneScores {
 public:
  using Table = std::vector<uint32_t>;

  LaneScores() = default;
  LaneScores(const ScoreKind& kind, int64_t heads);

  /// The same scores in as much memory; between steps.
  LaneScores fork() const;

  bool any() const { return !now_.empty(); }
  /// KV heads that add to the same numbers.
  int64_t heads_together() const { return kind_.by_head ? 1 : heads_; }
  int64_t table_bytes() const;
  /// Tables, each of one number per slot while there is a run.
  int64_t tables() const { return static_cast<int64_t>(now_.size()); }

  /// Query rows in the run, and the position behind it.
  int64_t scored_rows() const { return scored_rows_; }
  int64_t scored_end() const { return scored_end_; }
  /// The row at `p` begins a new run.
  bool begins_at(int64_t p) const {
    return kind_.reducer == ScoreReducer::kLast || scored_rows_ == 0 || scored_end_ != p;
  }
  /// Rows [from, end) have scored.
  void advance(int64_t from, int64_t end);
  /// There is no run any more.
  void forget();

  /// `slots` slots from now on; new ones have score 0. Nothing while there is no run.
  void resize(int64_t slots);
  /// A step has brought rows, of which those from `from` on will score: `slots` slots, from zero if
  /// a run begins there.
  void begin(int64_t from, int64_t slots);
  void move(int64_t from, int64_t to);
  /// Takes no more memory than `slots` slots need.
  void fit(int64_t slots);

  /// What head number `head` of the lane adds to.
  ScoreRows add_to(int64_t head) { return rows_of(now_, head); }

  /// The next provisional row, at position `p`: whether it scores, over `slots` slots, and from
  /// zero.
  void hold(int64_t slots, bool scores, bool anew);
  /// What provisional row number `row` adds to; nothing unless it scores.
  ScoreRows add_to_held(int64_t row, int64_t head);
  /// Forgets what provisional rows from `rows` on left.
  void truncate_held(int64_t rows);
  /// The scores after the last provisional row become the lane's.
  void adopt_held(int64_t slots);

  /// Over all heads, in `scratch`; empty where the reducer has none.
  std::span<const float> sums(int64_t slots, std::vector<float>& scratch) const;
  std::span<const float> counts(int64_t slots, std::vector<float>& scratch) const;
  /// Of each head, [heads, slots], in `scratch`; likewise, and where heads are not apart.
  std::span<const float> head_sums(int64_t slots, std::vector<float>& scratch) const;
  std::span<const float> head_counts(int64_t slots, std::vector<float>& scratch) const;

  const std::vector<Table>& image() const { return now_; }
  void load(std::vector<Table> image, int64_t scored_rows, int64_t scored_end);

 private:
  struct HeldRow {
    bool scores = false, anew = false;
    std::vector<Table> tables;
  };

  int64_t buffers() const { return kind_.by_head ? heads_ : 1; }
  size_t each() const { return now_.size() / static_cast<size_t>(buffers()); }
  ScoreRows rows_of(std::vector<Table>& tables, int64_t head);
  template <typename Value>
  std::span<const float> numbers(bool kept, bool apart, double unit, int64_t slots,
                                 std::vector<float>& scratch, Value value) const;
  std::span<const float> all_counts(bool apart, int64_t slots, std::vector<float>& scratch) const;

  ScoreKind kind_;
  int64_t heads_ = 0;
  int64_t scored_rows_ = 0, scored_end_ = 0;
  std::vector<Table> now_;  // by buffer: low and high halves of sums, counts
  std::vector<HeldRow> held_;
};

}  // namespace ashlar
