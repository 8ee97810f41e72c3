#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/cache/arena.h"
#include "engine/cache/kv_store.h"
#include "engine/policy/policy.h"
#include "models/spec/spec.h"

// The paged cache of one sequence: lanes of every KvGroup with lifetime "sequence".
//
// Schedule (what query i sees depends on tokens, i and options only): the row at position j is raw
// fp32 until the page of kPageRows positions that holds j is complete, and encoded from the next
// position on. So the query at position p sees rows below ⌊p/P⌋·P encoded and the rest raw, however
// the text was cut into chunks. Rows are encoded once and moved verbatim.
//
// Appended rows are provisional until their step ends. A step ends for one group when its last
// reader has run (close), or, while the cache holds, for all groups together with `commit(n)`:
// rows beyond the first n leave no trace, in pages, scores or positions. Policies see committed
// rows only.
//
// Groups with a window are bounded by construction: once a step has ended, the rows that no later
// query can see are released in units of kAttentionTile positions, so slot 0 always holds a
// multiple of it and attention reduces in the same tiles as if nothing had been released. Policies
// neither see nor score these groups.

namespace ashlar {

inline constexpr int64_t kPageRows = 16;  ///< P: rows per page and positions per encoding step

/// Where the value lies in the key (latent attention) the key's codec stores both.
struct CacheOptions {
  CodecKind key_codec = CodecKind::kF16;
  CodecKind value_codec = CodecKind::kF16;
};

class SequenceCache final : public KvStore {
 public:
  /// `policy` may be null (keep everything) and is shared between sequences. `arena` must outlive
  /// it.
  SequenceCache(std::span<const KvGroup> groups, const CacheOptions& options,
                std::shared_ptr<const Policy> policy, Arena& arena);
  ~SequenceCache() override;
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  void append(int64_t group, const float* keys, const float* values, int64_t rows) override;
  void query_tiles(int64_t group, int64_t head, std::vector<QueryTile>& tiles) const override;
  KvHeadView view(int64_t group, int64_t head, const QueryTile& tile) const override;
  bool scored(int64_t group) const override;
  float* scores(int64_t group, int64_t head, int64_t reader, const QueryTile& tile) override;

  /// Whether the policy acts when steps end: false while a prompt is still being fed. All rows of a
  /// step see what was kept before it.
  void set_acting(bool acting) { acting_ = acting; }
  /// True if rows came in since the policy last acted: a prompt that ends without adding a row (a
  /// Block Transformer's last, incomplete block) must still close its groups.
  bool unsettled() const { return unsettled_; }
  const Policy* policy() const { return policy_.get(); }

  /// Ends the step of `group` for all `caches` after its last reader: one batched select per
  /// policy, then drop → compact → encode. Leaves the rows of a holding cache provisional.
  static void close(std::span<SequenceCache* const> caches, int64_t group);

  /// Keeps appended rows provisional until commit; later appends see them. Changed between steps
  /// only.
  void set_holding(bool holding);
  /// Forgets all but the first `rows` provisional rows of every group.
  void truncate_provisional(int64_t rows = 0);
  /// Makes the first rows[i] provisional rows of caches[i] final in every group, forgets the others
  /// and ends the step as close does. The caches share one model.
  static void commit(std::span<SequenceCache* const> caches, std::span<const int64_t> rows);

  /// Committed rows fed to `group` so far, dropped ones included.
  int64_t position(int64_t group) const;
  /// Rows `head` of `group` holds now, provisional ones included.
  int64_t rows(int64_t group, int64_t head) const;
  /// How many of them are encoded; the others are raw.
  int64_t encoded_rows(int64_t group, int64_t head) const;
  std::span<const int32_t> positions(int64_t group, int64_t head) const;
  /// Bytes of pages this sequence occupies.
  int64_t bytes() const { return bytes_; }

 private:
  // Rows of some heads of one group. Slots: `encoded` rows in pages, then raw rows.
  struct Lane {
    int64_t head_begin = 0, head_end = 0;
    std::vector<PageId> pages;
    std::vector<const std::byte*> addresses;
    int64_t front = 0;  // position of slot 0 in a group with a window
    int64_t encoded = 0;
    std::vector<int32_t> positions;
    std::vector<std::vector<float>> scores;  // per (reader, head), per slot; empty if unscored
    // While holding: the scores as they are after each provisional row.
    std::vector<std::vector<std::vector<float>>> held_scores;  // per (reader, head), per row
    PageId raw_page;                                           // up to P fp32 rows
    std::vector<float> staging;  // all raw rows of a step that exceeds raw_page
    int64_t raw = 0;
    bool staged = false;
    int64_t encoded_before = 0, raw_before = 0;  // when the step in flight began

    int64_t heads() const { return head_end - head_begin; }
  };
  struct Group {
    KvGroup info;
    bool cached = false;
    bool governed = false;                   // policies act on it
    int64_t key_bytes = 0, value_bytes = 0;  // of one encoded vector; no value bytes in the key
    int64_t position = 0;
    int64_t step_rows = 0;  // provisional rows
    int64_t last_rows = 0;  // those of the last append
    std::vector<Lane> lanes;
  };

  Group& at(int64_t group) { return groups_[static_cast<size_t>(group)]; }
  const Group& at(int64_t group) const { return groups_[static_cast<size_t>(group)]; }
  const Lane& lane_of(const Group& group, int64_t head) const;
  float* raw_base(const Group& group, Lane& lane);
  const float* raw_base(const Lane& lane) const;
  int64_t raw_row_floats(const Group& group, const Lane& lane) const;
  void append_raw(Group& group, Lane& lane, const float* keys, const float* values, int64_t rows);
  int64_t encoded_early(const Group& group, const Lane& lane) const;
  void encode(Group& group, Lane& lane, int64_t rows);
  void release_pages(const Group& group, Lane& lane);
  void release_front(const Group& group, Lane& lane);
  int64_t page_bytes(const Group& group, const Lane& lane) const;
  void drop(Group& group, Lane& lane, const std::vector<int64_t>& slots);
  void retire_encoded(Group& group);
  void unstage(const Group& group, Lane& lane);
  static void adopt_held_scores(Lane& lane);
  void truncate(Group& group, int64_t rows);
  static void end_step(std::span<SequenceCache* const> caches, int64_t group);
  static void apply_policy(const Policy& policy, std::span<SequenceCache* const> caches,
                           int64_t group);
  void finish(Group& group);
  std::byte* slot_key(const Group& group, Lane& lane, int64_t head, int64_t slot);
  std::byte* slot_value(const Group& group, Lane& lane, int64_t head, int64_t slot);
  void move_row(const Group& group, Lane& lane, int64_t from, int64_t to);
  PageId take(int64_t bytes);
  void give(PageId page, int64_t bytes);

  CacheOptions options_;
  std::shared_ptr<const Policy> policy_;
  Arena& arena_;
  std::vector<Group> groups_;
  int64_t bytes_ = 0;
  bool acting_ = false;
  bool holding_ = false;
  bool unsettled_ = false;
};

}  // namespace ashlar
