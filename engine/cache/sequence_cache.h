#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cache/arena.h"
#include "engine/cache/cache_schedule.h"
#include "engine/cache/kv_store.h"
#include "engine/cache/lane.h"
#include "engine/cache/page_pool.h"
#include "engine/policy/policy.h"
#include "models/spec/spec.h"

// The paged cache of one sequence: lanes of every KvGroup with lifetime "sequence".
//
// Schedule (what query i sees depends on tokens, i and options only): CacheSchedule says which rows
// a query sees raw, in fp16 or coded, however the text was cut into chunks. Rows are coded once and
// moved verbatim.
//
// Appended rows are provisional until their step ends. A step ends for one group when its last
// reader has run (close), or, while the cache holds, for all groups together with `commit(n)`:
// rows beyond the first n leave no trace, in pages, scores or positions. Policies see committed
// rows only.
//
// Memory: `prepare` puts aside what a step can need, so a step that has begun does not fail for
// want of it. Pages may be shared (fork); who writes to a shared page copies it first. Every byte
// counts in the provider: pages by chunk, tables and buffers by `MemoryProvider::count`.
//
// With a policy that recalls, all filled pages of a governed group are copied to a backup, and
// those attention reads are resident: for a decoded row they are chosen by its own query
// (see_queries), before it attends; at a prompt's end by its last one, afterwards.
//
// Under ZipCache rows wait in fp16, and become a segment when a prompt ends or a row was decoded
// and at least `every` of them wait: probe rows of the prompt, or of the `every` rows, have ranked
// them.
//
// Groups with a window are bounded by construction: once a step has ended, the rows that no later
// query can see are released in whole tiles, so attention reduces the others in the same tiles as
// if nothing had been released. Policies neither see nor score these groups.

namespace ashlar {

/// Bytes of one sequence's cache.
struct CacheBytes {
  int64_t pages = 0;   ///< codes, their parameters and raw rows; shared pages in full
  int64_t tables = 0;  ///< positions, page tables, scores, buffers of a step under way

  int64_t total() const { return pages + tables; }
};

/// What a cache holds between steps, apart from where.
struct CacheImage {
  struct Group {
    int64_t position = 0;
    int64_t acted = 0;  ///< position when the policy last acted
    /// Of a group under ZipCache: the query rows among which probes are, and the first that counts;
    /// none: all 0.
    int64_t probe_begin = 0, probe_end = 0, probe_from = 0;
    std::vector<LaneImage> lanes;
    bool operator==(const Group&) const = default;
  };
  std::vector<Group> groups;  ///< by id; empty for groups that are not cached here

  bool operator==(const CacheImage&) const = default;
};

/// Throws Error(kRequest) for options out of range, or that the policy (null: none) cannot go with.
void check_goes_with(const CacheOptions& options, const Policy* policy);
/// Throws Error(kRequest) with the reason where ZipCache cannot go with a policy (`governed`: there
/// is one) or with one of the groups.
void check_zip(const CacheOptions& options, bool governed, std::span<const KvGroup> groups);

class SequenceCache final : public KvStore {
 public:
  /// `policy` may be null (keep everything) and is shared between sequences. `arena` must outlive
  /// it. Throws as check_goes_with.
  SequenceCache(std::span<const KvGroup> groups, const CacheOptions& options,
                std::shared_ptr<const Policy> policy, Arena& arena);
  ~SequenceCache() override;
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  /// The same rows for another sequence, which goes its own way from here; between steps, no rows
  /// provisional. Costs tables, not pages.
  std::unique_ptr<SequenceCache> fork() const { return fork(policy_); }
  /// The same under another policy, which wants lanes and scores of the same kind (null where this
  /// cache's policy keeps no scores).
  std::unique_ptr<SequenceCache> fork(std::shared_ptr<const Policy> policy) const;

  /// Puts memory aside for appending `rows` rows to every group, in steps of at most `step` rows,
  /// and ending them, so that they cannot fail for want of it. Throws Error(kResource) when the
  /// provider has no room, Error(kRequest) when CacheOptions::max_bytes would be exceeded,
  /// Error(kIo) when backups cannot be written any more; nothing has changed then. Before a step,
  /// or before more provisional rows.
  void prepare(int64_t rows, int64_t step);
  /// Gives back what prepare put aside and the steps have not taken.
  void release_reserve() { pool_.release_reserve(); }

  void append(int64_t group, const float* keys, const float* values, int64_t rows) override;
  void see_queries(int64_t group, const float* queries, int64_t heads, ThreadPool& pool) override;
  void query_tiles(int64_t group, int64_t head, std::vector<QueryTile>& tiles) const override;
  KvHeadView view(int64_t group, int64_t head, const QueryTile& tile) const override;
  int64_t heads_scored_together(int64_t group) const override;
  ScoreRows scores(int64_t group, int64_t head, const QueryTile& tile) override;

  /// Whether the policy acts when steps end: false while a prompt is still being fed. All rows of a
  /// step see what was kept before it.
  void set_acting(bool acting) { acting_ = acting; }
  /// The position behind the last row of the prompt that is being fed, for policies that score the
  /// last query rows of a prompt only; −1: the prompt ends with the step (of provisional rows, with
  /// any of them). A step of one row right after the policy acted, which acts itself and ends its
  /// prompt, is no prompt but a decoded row; so are provisional rows after which it acts. Set
  /// before each step.
  void set_prompt_end(int64_t position) { prompt_end_ = position; }
  /// True if rows came in since the policy last acted: a prompt that ends without adding a row (a
  /// Block Transformer's last, incomplete block) must still close its groups.
  bool unsettled() const;
  const CacheOptions& options() const { return options_; }
  const Policy* policy() const { return policy_.get(); }
  const std::shared_ptr<const Policy>& shared_policy() const { return policy_; }

  /// Ends the step of `group` for all `caches` after its last reader: one batched select per
  /// policy, then drop → compact → encode. Leaves the rows of a holding cache provisional.
  static void close(std::span<SequenceCache* const> caches, int64_t group);

  /// Keeps appended rows provisional until commit; later appends see them. Changed between steps
  /// only. Throws Error(kRequest) where the policy recalls pages or rows become segments.
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
  /// What the sequence occupies, the reserve not included.
  CacheBytes bytes() const { return {pool_.bytes(), tables_}; }
  /// Of the backup of a policy that recalls pages: ordinary memory beside the provider's.
  int64_t backup_bytes() const;

  /// All lanes, by group and head.
  std::vector<const Lane*> lanes() const;
  /// Whether no row was ever dropped (but for windows).
  bool intact() const;
  /// Becomes a cache of `pages` full pages of positions, of which lane l shares page_of(l, p) for
  /// each p in [shared_begin(pages), pages). The cache is empty.
  void adopt(int64_t pages, const std::function<PageId(size_t lane, int64_t page)>& page_of);

  /// Pages that steps took beyond what prepare had put aside: 0 for who prepares.
  int64_t unplanned_pages() const { return pool_.unplanned(); }

  /// Everything the cache holds, between steps.
  CacheImage image() const;
  /// Becomes `image`; the cache is empty. Throws Error(kData) naming `what` if the image cannot be
  /// one of this cache's, Error(kResource) if there is no room; it is empty then.
  void load(const CacheImage& image, const std::string& what);
  /// Moves all rows to ordinary host memory and gives the pages back; only swap_in, swapped_out and
  /// the destructor may follow. Rows shared with others stay theirs.
  void swap_out();
  /// Takes them back. Throws Error(kResource) if there is no room; they stay out then.
  void swap_in();
  bool swapped_out() const { return swapped_.has_value(); }

 private:
  struct Group {
    KvGroup info;
    bool cached = false;
    bool governed = false;  // policies act on it
    bool recalls = false;   // its pages come and go
    bool zips = false;      // its rows become segments
    int64_t place = 0;      // among the governed ones
    int64_t position = 0;
    int64_t acted = 0;      // position when the policy last acted
    int64_t step_rows = 0;  // provisional rows
    int64_t last_rows = 0;  // those of the last append
    int64_t tables = 0;     // bytes counted in the provider
    std::vector<Lane> lanes;
    // Under ZipCache: which query rows rank the rows that wait, the first of them that counts, and
    // which rows of the step under way are among them (empty: none).
    std::optional<ProbeRows> probes;
    int64_t probes_from = 0;
    std::vector<uint8_t> probing;
  };

  Group& at(int64_t group) { return groups_[static_cast<size_t>(group)]; }
  const Group& at(int64_t group) const { return groups_[static_cast<size_t>(group)]; }
  static size_t lane_index(const Group& group, int64_t head);
  int64_t lane_width(const Group& group) const;
  void add_lanes(Group& group);
  int64_t tables_for(int64_t rows, int64_t step) const;
  void recount(Group& group);
  void truncate(Group& group, int64_t rows);
  static void end_step(std::span<SequenceCache* const> caches, int64_t group);
  static void apply_policy(const Policy& policy, std::span<SequenceCache* const> caches,
                           int64_t group);
  void choose_pages(Group& group, std::span<const float> query, bool prompt_end, ThreadPool* pool);
  void choose_at_prompt_end(Group& group);
  void finish(Group& group);
  static int64_t encoded_for(const Group& group, int64_t position, int64_t acted);
  bool follows_action(const Group& group) const;
  bool decodes(const Group& group) const;
  int64_t scored_from(const Group& group, const Lane& lane) const;
  bool sleeps(const Group& group, const Lane& lane, int64_t rows) const;
  void begin_scores(Group& group);
  void advance_scores(Group& group);
  bool policy_scores(const Group& group) const;
  void plan_probes(Group& group);
  ScoreRows probe_scores(Group& group, int64_t head, const QueryTile& tile);
  void freeze(Group& group);
  void check_probes(const Group& group, const CacheImage::Group& from,
                    const std::string& what) const;
  bool between_steps() const;

  CacheOptions options_;
  std::shared_ptr<const Policy> policy_;
  Arena& arena_;
  PagePool pool_;
  std::vector<Group> groups_;
  int64_t tables_ = 0;  // of all groups
  std::optional<CacheImage> swapped_;
  bool acting_ = false;
  bool holding_ = false;
  int64_t prompt_end_ = -1;
};

}  // namespace ashlar
