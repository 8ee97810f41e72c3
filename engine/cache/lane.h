#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cache/cache_schedule.h"
#include "engine/cache/kv_store.h"
#include "engine/cache/lane_scores.h"
#include "engine/cache/page_recall.h"
#include "engine/cache/raw_rows.h"
#include "engine/cache/row_store.h"
#include "engine/cache/zip_store.h"
#include "models/spec/spec.h"

namespace ashlar {

/// What a lane holds, apart from where: for swapping, saving and comparing.
struct LaneImage {
  std::vector<int32_t> positions;          ///< in slot order
  int64_t sinks = 0, coded = 0, late = 0;  ///< rows of each store; the others are raw
  std::vector<std::byte> sink_pages, coded_pages, late_pages;
  std::vector<float> raw;
  /// Tables (LaneScores, ZipStore); empty ones while no query row has scored.
  std::vector<std::vector<uint32_t>> scores;
  int64_t scored_rows = 0, scored_end = 0;  ///< LaneScores
  int64_t front = 0;
  // Of a lane that recalls: which pages `coded_pages` are, the bytes of all others, filled ones in
  // the order of the text, and a query of a prompt under way.
  std::vector<int32_t> resident;
  std::vector<std::byte> backup;
  std::vector<float> query;
  /// Of a lane under ZipCache, whose `coded_pages` are its lists and parameters, `coded` rows in
  /// all, and whose scores are those of the rows that wait: rows and salient rows of each segment.
  std::vector<int32_t> segments;

  bool operator==(const LaneImage&) const = default;
};

/// The rows of some heads of one KvGroup of one sequence. Slots number them: rows that stay fp16,
/// coded rows, fp16 rows to be coded later, raw rows (CacheSchedule). During a step encoded forms
/// are made as later rows of the step need them, and the older forms stay for the rows that saw
/// them; retire() ends that.
class Lane {
 public:
  /// `group` and `pool` must outlive it.
  Lane(const KvGroup& group, int64_t head_begin, int64_t heads, const CacheOptions& options,
       const ScoreKind& scores, PagePool& pool, const RecallNeeds* recall = nullptr);
  Lane(Lane&&) = default;
  /// The same rows for another sequence, pages shared; between steps. `group` as at construction.
  Lane fork(const KvGroup& group, PagePool& pool) const;

  int64_t head_begin() const { return head_begin_; }
  int64_t heads() const { return heads_; }
  /// Rows, provisional ones included.
  int64_t rows() const { return static_cast<int64_t>(positions_.size()); }
  int64_t encoded_rows() const { return sinks_.rows() + coded() + late_.rows(); }
  std::span<const int32_t> positions() const { return positions_; }
  /// Rows of each form, which follow each other by slot; the others are raw.
  struct Forms {
    int64_t sinks = 0, coded = 0, late = 0;
  };
  Forms forms() const { return {sinks_.rows(), coded(), late_.rows()}; }
  LaneScores& scores() { return scores_; }
  const LaneScores& scores() const { return scores_; }
  /// Backup and digests of its pages; null where the policy recalls none.
  PageRecall* recall() { return recall_ ? &*recall_ : nullptr; }
  const PageRecall* recall() const { return recall_ ? &*recall_ : nullptr; }
  /// Segments of ZipCache; null where rows are coded one by one.
  ZipStore* zip() { return zip_ ? &*zip_ : nullptr; }
  const ZipStore* zip() const { return zip_ ? &*zip_ : nullptr; }
  int64_t table_bytes() const;

  // Below, `position` is the number of committed rows fed to the lane, and `p` a row's position.

  /// Puts pages aside in `pool` that steps of at most `step` rows, `rows` in all, can need;
  /// `drops`: a policy may act; `freezes`: rows that wait may become a segment. Returns their
  /// bytes. Throws Error(kResource).
  int64_t reserve(PagePool& pool, int64_t position, int64_t rows, int64_t step, bool drops,
                  bool freezes = false) const;
  /// Bytes of the buffer that a step of `rows` rows needs beside pages.
  int64_t staging_bytes(int64_t rows) const;

  /// Provisional rows, behind `before` others of the same step.
  void append(int64_t position, int64_t before, int64_t rows, const float* keys,
              const float* values);
  /// What query rows from `p` on see that lie in one page of positions.
  QueryTile tile(int64_t position, int64_t p) const;
  /// What a query would see that sees every row, between steps or once a step was retired.
  QueryTile everything() const;
  KvHeadView view(int64_t head, const QueryTile& tile) const;

  /// Forgets all but the first `rows` rows of the step.
  void truncate(int64_t position, int64_t rows);
  /// The step is over: forms that no later row sees go.
  void retire();
  /// Drops slots, in ascending order, between steps.
  void drop(std::span<const int64_t> slots);
  /// Pages that were filled since the last call get backup and digests; not while a step has
  /// forms that go.
  void add_filled_pages();
  /// `pages` (ascending) and the raw rows are all that attention reads from now on; others that
  /// were resident go, those that were not come back from the backup, read on `threads` (null: on
  /// the caller's). How many came back. Throws Error(kIo); the lane can only be given up then.
  int64_t make_resident(std::span<const int32_t> pages, ThreadPool* threads);
  /// Encodes what the query at `p` sees encoded, and releases what the one at `position` and later
  /// ones cannot see, in whole tiles.
  void finish(int64_t position, int64_t p);

  /// Rows that have not become a segment yet.
  int64_t waiting() const { return rows() - coded(); }
  /// All rows that wait become a segment of zip(), between steps; probes[row]: how many query rows
  /// that scored could see it.
  void freeze(std::span<const int64_t> probes);

  /// Whether every row is still where it was encoded (but for windows): nothing was ever dropped.
  bool intact() const { return intact_; }
  /// Position pages [shared_begin, n) are all that a text of n full pages needs of this lane.
  int64_t shared_begin(int64_t n) const;
  /// Whether position page `page` has its last form in a text of n full pages, or is still fp16.
  bool final_form(int64_t page, int64_t n) const;
  /// The page that holds position page `page` now, in the form it has now; none if it is not held
  /// encoded. The lane is intact.
  PageId page_at(int64_t page) const;
  /// Becomes a lane of n full position pages: page_of(p) for each p in [shared_begin(n), n). The
  /// lane is empty.
  void adopt(int64_t n, const std::function<PageId(int64_t)>& page_of);

  LaneImage image() const;
  /// Puts aside what load() takes. Throws Error(kResource).
  void reserve_image(PagePool& pool, const LaneImage& image) const;
  /// Becomes `image`, which must be one of this lane's (check_image). The lane is empty.
  void load(const LaneImage& image);
  /// Throws Error(kData) unless `image` can be a lane's of this kind after finish(position, p).
  void check_image(const LaneImage& image, int64_t position, int64_t p,
                   const std::string& what) const;

 private:
  Lane(const Lane& other, const KvGroup& group, PagePool& pool);

  // How many rows have which form for the query at p, counted from the step's beginning.
  struct Placement {
    int64_t precise = 0;  // raw rows that have gone to the sinks
    int64_t ready = 0;    // raw rows that are encoded, those included
    int64_t due = 0;      // late rows that are coded
  };
  int64_t coded() const { return zip_ ? zip_->rows() : coded_.rows(); }
  Placement place(int64_t p) const;
  int64_t below(int64_t slot, int64_t limit) const;
  int64_t released(int64_t position) const;
  void release_front(int64_t position);
  int64_t raw_slot() const { return rows() - raw_.rows(); }
  void advance(int64_t p);
  void code_late(int64_t from, int64_t to);
  void begin_step();
  void load_recall(const LaneImage& image);
  void check_segments(const LaneImage& image, const std::string& what) const;
  void check_recall(const LaneImage& image, int64_t complete, const std::string& what) const;

  const KvGroup* group_;
  int64_t head_begin_, heads_;
  CacheSchedule schedule_;
  RowStore sinks_, coded_, late_;
  RawRows raw_;
  std::vector<int32_t> positions_;
  LaneScores scores_;
  std::optional<PageRecall> recall_;
  std::optional<ZipStore> zip_;  // instead of coded_
  int64_t front_ = 0;            // rows released in front (groups with a window)
  bool intact_ = true;
  // When the step began, and what has since got its next form.
  int64_t sinks_before_ = 0, coded_before_ = 0, late_before_ = 0, raw_before_ = 0;
  int64_t raw_gone_ = 0, late_gone_ = 0;
};

}  // namespace ashlar
