#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "engine/model/engine.h"

namespace ashlar::cli {

/// What becomes of the rows of a text's cache. Compares the positions that lanes hold before and
/// after each step, so it needs nothing of policies and nobody pays who does not ask.
class CacheExplainer {
 public:
  /// Keeps references to both. What `sequence` holds already was there before the first step.
  CacheExplainer(const Engine& engine, const Sequence& sequence);

  /// A step has ended: notes what it did. Does nothing if no token was read since the last call.
  void observe();

  /// [{step, group, lane, kept, evicted, recalled, bits}], in that order, one for every step and
  /// lane. Step 0 is the first one seen, a prompt as a whole. `lane`: of the group; KV heads where
  /// a policy keeps them apart. Rows: `kept` are held after the step; `evicted` went in it, dropped
  /// by a policy or left behind by a window; `recalled` had gone before. `bits`: of a number in the
  /// kept rows, the codec's parameters included. Rows of a Block Transformer are blocks.
  Node rows() const;

  /// The lanes as they are now, for a terminal of `columns` columns: a line each, positions from
  /// left to right, and what the signs mean. Empty before the first step.
  std::string picture(int columns = 80) const;

 private:
  struct LaneState {
    const KvGroup* group = nullptr;
    size_t index = 0;           // in SequenceCache::lanes()
    int64_t lane = 0;           // of its group
    std::vector<int32_t> held;  // positions, ascending
    int64_t fed = 0;            // rows that ever came
  };
  struct Row {
    int64_t step, group, lane, kept, evicted, recalled;
    double bits;
  };

  double bits_of(const LaneState& state, const Lane& lane) const;
  std::string signs_of(const LaneState& state, const Lane& lane, int64_t per_sign) const;

  const Sequence& sequence_;
  std::vector<LaneState> states_;
  std::vector<Row> rows_;
  int64_t steps_ = 0;
  int64_t length_ = 0;
};

}  // namespace ashlar::cli
