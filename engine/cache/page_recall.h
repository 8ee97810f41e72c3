#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/threads.h"
#include "engine/cache/backup_store.h"
#include "engine/policy/recall.h"
#include "kernels/kv_page.h"

namespace ashlar {

/// What a lane knows of its filled pages beside the resident ones themselves: a backup of every
/// page, as it was encoded, and its digests. Page n holds rows n·P to n·P + P − 1 of the text.
/// Backups lie outside the arena and its budget (BackupStore), and forks share them.
class PageRecall {
 public:
  /// `shape`: of the lane's coded pages. `store` may be null where no page will be added.
  PageRecall(const RecallNeeds& needs, const KvPageShape& shape, BackupStore* store);
  PageRecall(PageRecall&&) = default;
  PageRecall fork() const { return PageRecall(*this); }

  int64_t pages() const { return static_cast<int64_t>(backups_.size()); }
  /// Pages that attention reads, ascending: the lane's coded pages in order.
  std::span<const int32_t> resident() const { return resident_; }
  void set_resident(std::span<const int32_t> pages);
  const BackupPage& backup(int64_t page) const { return *backups_[static_cast<size_t>(page)]; }

  /// The next page is filled: it is resident, and gets its backup and digests.
  void add(const std::byte* page);

  /// The newest query of a prompt, [query heads, key_dim]; empty where none is wanted.
  std::span<const float> query() const { return query_; }
  void set_query(std::span<const float> query);

  /// PagesView::scores for one query [query_heads, key_dim]. Query head h reads KV head
  /// h / (query_heads / heads). Of a page's digests a query head counts the largest estimate.
  /// `pool` may be null.
  void score(std::span<const float> query, ThreadPool* pool, std::vector<float>& scores) const;

  /// Pages that the next query may well recall are fetched ahead where they lie in a file: the
  /// `count` best by `scores` that are not resident.
  void fetch_ahead(std::span<const float> scores, int64_t count) const;

  /// Bytes of digests and tables, which a lane holds resident; and of the backup. The query, one
  /// row of a step's, is not counted.
  int64_t table_bytes() const;
  int64_t backup_bytes() const;
  /// Bytes that tables may grow by when `more` pages come.
  int64_t tables_for(int64_t more) const;
  /// table_bytes() of a text of `pages` pages.
  int64_t tables_of(int64_t pages) const;

 private:
  PageRecall(const PageRecall& other);
  void dots(int64_t first, int64_t count, int64_t head, int64_t heads,
            std::span<const float> weights, int64_t queries, float* dots) const;
  void score_units(int64_t first, int64_t pages, std::span<const float> weights, int64_t shared,
                   float* scores) const;
  int64_t digest_table_bytes(int64_t pages) const;
  int64_t block_units() const { return coded_ ? kCodedDigests : 1; }
  int64_t block_bytes() const { return shape_.heads * head_bytes_; }

  using Backup = std::shared_ptr<const BackupPage>;
  static constexpr int64_t kPageEntries = static_cast<int64_t>(sizeof(Backup)) + 4;

  KvPageShape shape_;
  BackupStore* store_;
  bool coded_;           // digests of a byte a number, in blocks of kCodedDigests
  DigestShape digest_;   // fp16, or those that are coded
  int64_t digest_rows_;  // of keys, in one
  int64_t units_;        // digests of a page, for each head
  int64_t head_bytes_;   // of one head's digests in a block
  std::vector<Backup> backups_;
  std::vector<std::byte> digests_;  // [blocks, heads]: by page, then unit
  std::vector<int32_t> resident_;
  std::vector<float> query_;
};

}  // namespace ashlar
