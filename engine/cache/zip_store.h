#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/cache/row_store.h"
#include "engine/cache/zip_options.h"
#include "kernels/kv_zip.h"
#include "kernels/score_sums.h"
#include "models/spec/spec.h"

namespace ashlar {

/// The encoded rows of one KV head under ZipCache (kernels/kv_zip.h): two lists of pages, of rows
/// with 4 bits and with 2, and segments, each the next rows of both lists with parameters of their
/// own, which lie apart. A segment's rows are neighbours in the text; slots number its salient rows
/// first, then the others, each in the order of the text. What is encoded never changes and never
/// moves; pages may be shared with forks.
class ZipStore {
 public:
  /// `pool` must outlive it.
  ZipStore(const KvGroup& group, const ZipOptions& options, int64_t page_rows, PagePool& pool);
  ~ZipStore();
  ZipStore(ZipStore&& other) noexcept;
  ZipStore& operator=(ZipStore&&) = delete;
  ZipStore fork(PagePool& pool) const;

  const ZipOptions& options() const { return options_; }
  int64_t rows() const { return salient_.rows() + regular_.rows(); }
  int64_t salient_rows() const { return salient_.rows(); }
  int64_t segments() const { return static_cast<int64_t>(segments_.size()); }
  /// Whether the row in a slot has 4 bits.
  bool is_salient(int64_t slot) const;
  /// Bytes of its tables.
  int64_t table_bytes() const;
  /// Bits of all rows, parameters included, without what pages leave free.
  int64_t bits() const;
  /// All segments as attention reads them.
  std::span<const KvRun> runs() const { return runs_; }

  /// Puts pages aside for encoding rows of which `waiting` wait then; returns their bytes.
  int64_t reserve(PagePool& pool, int64_t waiting) const;
  /// How much tables may grow by until then, and what is needed while a segment is encoded.
  int64_t tables_for(int64_t waiting) const;
  int64_t work_bytes(int64_t waiting) const;

  /// Scores of the rows that wait, over all readers; none until a probe row scores.
  ScoreSums scores() { return {scores_[0].data(), scores_[1].data()}; }
  /// `waiting` rows wait; `probe`: a query row of the step scores.
  void resize_scores(int64_t waiting, bool probe);
  void forget_scores();

  /// The order of the rows that wait: salient ones, then the others, each ascending. A row's
  /// saliency is its score / probes[row]: p̃_j = Σ_i a_ij / nnz_j (paper, eq. 8). Of equal ones the
  /// newer is more salient; a row that no probe saw is the most salient.
  std::vector<int64_t> order(std::span<const int64_t> probes) const;
  /// Appends a segment: keys [rows, key_dim] and values in that order, salient ones first.
  void freeze(const float* keys, const float* values, int64_t rows);

  /// Apart from where it lies: rows and salient rows of each segment; the bytes of both lists, then
  /// all parameters.
  std::vector<int32_t> image_segments() const;
  std::vector<std::byte> image_bytes() const;
  const std::vector<std::vector<uint32_t>>& image_scores() const { return scores_; }
  /// Bytes of segments; throws Error(kData) naming `what` if they cannot be.
  int64_t bytes_of(std::span<const int32_t> segments, const std::string& what) const;
  void reserve_image(PagePool& pool, std::span<const int32_t> segments) const;
  void load(std::span<const int32_t> segments, std::span<const std::byte> bytes,
            std::vector<std::vector<uint32_t>> scores);

 private:
  struct Segment {
    int32_t rows = 0, salient = 0;
    PageId parameters;
  };

  ZipChannels channels(const Segment& segment, CodecKind set) const;
  void add_segment(int64_t rows, int64_t salient);
  void rebuild_runs();

  ZipOptions options_;
  ZipShape shape_;
  PagePool* pool_;
  RowStore salient_, regular_;
  std::vector<Segment> segments_;
  std::vector<KvRun> runs_;
  std::vector<std::vector<uint32_t>> scores_;  // low and high halves
};

}  // namespace ashlar
