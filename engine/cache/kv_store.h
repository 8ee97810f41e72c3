#pragma once

#include <cstdint>
#include <vector>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "engine/cache/lane_scores.h"
#include "kernels/attention.h"

namespace ashlar {

/// A run of query rows of one step that see the same encoded rows.
struct QueryTile {
  int64_t row = 0;  ///< first row, relative to the step's rows of this store
  int64_t rows = 0;
  // Rows they see, in slot order: those that stay fp16, coded ones, fp16 ones coded later, raw
  // ones.
  int64_t sinks = 0;
  int64_t coded = 0;
  int64_t late_first = 0;  ///< first of the rows coded later that they see as fp16
  int64_t late = 0;
  int64_t raw_offset = 0;     ///< first raw row they see
  int64_t raw_visible = 0;    ///< raw rows the first of them sees, from raw_offset
  int64_t runs = kMaxKvRuns;  ///< of their view, at most

  /// Slots that the first of them sees.
  int64_t visible() const { return sinks + coded + late + raw_visible; }
};

/// Where attention finds the keys and values of one sequence (or one block). Per step and group:
/// append → see_queries → query_tiles/view for every reader → close (SequenceCache) when the last
/// reader has run. The window of a group is the attention task's: tiles count every row that is
/// there. Tiles are those of the rows appended last.
class KvStore {
 public:
  virtual ~KvStore() = default;
  /// Adds `rows` rows: keys [rows, heads, key_dim], values [rows, heads, value_dim], contiguous;
  /// values are ignored where they lie in the keys.
  virtual void append(int64_t group, const float* keys, const float* values, int64_t rows) = 0;
  /// The owner layer's queries of the rows appended last, [rows, heads, key_dim], before anything
  /// attends to the group: who keeps pages in a backup chooses those that are read.
  virtual void see_queries(int64_t /*group*/, const float* /*queries*/, int64_t /*heads*/,
                           ThreadPool& /*pool*/) {}
  virtual void query_tiles(int64_t group, int64_t head, std::vector<QueryTile>& tiles) const = 0;
  /// Tiles of `rows` queries that all see every row of `group`: encoders and cross-attention, whose
  /// rows a BlockKv holds.
  virtual void full_tiles(int64_t /*group*/, int64_t /*rows*/,
                          std::vector<QueryTile>& /*tiles*/) const {
    fail(ErrorCode::kInternal, "only the cache of a block is read in full by every row");
  }
  virtual KvHeadView view(int64_t group, int64_t head, const QueryTile& tile) const = 0;
  /// 0 unless somebody wants attention probabilities of the step; else so many heads add to the
  /// same numbers, which only one thread may do at a time: from each multiple on.
  virtual int64_t heads_scored_together(int64_t /*group*/) const { return 0; }
  /// Where a reader of the group adds what the probabilities of `tile` give, one number per slot;
  /// null where nobody wants it.
  virtual ScoreRows scores(int64_t /*group*/, int64_t /*head*/, const QueryTile& /*tile*/) {
    return {};
  }
};

}  // namespace ashlar
