#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/threads.h"
#include "engine/cache/page_pool.h"
#include "kernels/kv_zip.h"

namespace ashlar {

/// Rows of a step as floats: keys [rows, heads, key_dim] and values [rows, heads, value_dim],
/// strides in floats between rows; values are ignored where they lie in the keys.
struct FloatRows {
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  ZipChannels channels = {};  ///< parameters of a channelwise store's rows
};

/// Encoded rows of one lane, in pages of one shape. Pages may be shared with other stores: whatever
/// writes to a page owns it alone first.
class RowStore {
 public:
  /// `pool` must outlive it.
  RowStore(const KvPageShape& shape, PagePool& pool);
  ~RowStore();
  RowStore(RowStore&& other) noexcept;
  RowStore& operator=(RowStore&&) = delete;

  /// The same rows for another sequence, pages shared.
  RowStore fork(PagePool& pool) const;

  const KvPageShape& shape() const { return shape_; }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t rows() const { return rows_; }
  std::span<const PageId> pages() const { return pages_; }
  const std::byte* address(int64_t page) const { return addresses_[static_cast<size_t>(page)]; }
  /// Bytes of its tables.
  int64_t table_bytes() const;
  /// New pages that `more` appended rows take at most, one that must be copied first included.
  int64_t pages_for(int64_t more) const;
  /// Pages that others own too.
  int64_t shared_pages() const;

  void append(int64_t rows, const FloatRows& from);
  /// Decodes rows [first, first + rows), keys and values contiguous. Not of a channelwise store.
  void decode(int64_t first, int64_t rows, float* keys, float* values) const;
  /// Forgets all but the first `rows` rows.
  void truncate(int64_t rows);
  /// Forgets the first rows; the others move up.
  void drop_front(int64_t rows);
  /// A page to be: one that the store holds, or a copy, lent where it can be read in place.
  struct PageChoice {
    int64_t held = -1;
    const BackupPage* copy = nullptr;
  };
  /// Becomes these pages, all of them full as those it has are. Held ones keep their order. Copies
  /// that cannot be lent are read on `threads`; without, on the caller's.
  void choose_pages(std::span<const PageChoice> pages, ThreadPool* threads);
  /// Forgets the first pages.
  void drop_front_pages(int64_t pages);
  /// Forgets the rows `slots` (ascending); the others close up in order.
  void drop_in_order(std::span<const int64_t> slots);
  /// Forgets the rows `slots` (ascending) and fills the holes with the last rows, which moves no
  /// more rows than it drops. moved(from, to) tells of each.
  template <typename Moved>
  void drop_filling(std::span<const int64_t> slots, const Moved& moved);

  /// Rows [first, first + rows) as attention reads head `head` of the lane.
  KvRun run(int64_t head, int64_t first, int64_t rows) const;

  /// Bytes of all pages, unused rows of the last one zero; and back. `image` must have the size of
  /// the pages that `rows` rows take.
  std::vector<std::byte> image() const;
  void load(std::span<const std::byte> image, int64_t rows);
  /// Shares pages of another store of the same shape, which hold `rows` rows; this one is empty.
  void adopt(std::span<const PageId> pages, int64_t rows);

 private:
  void copy_row(int64_t from, int64_t to);
  std::byte* writable(int64_t page);
  void add_page(PageId page);
  void fit_tables(int64_t pages);

  KvPageShape shape_;
  PagePool* pool_;
  int64_t page_bytes_;
  std::vector<PageId> pages_;
  std::vector<const std::byte*> addresses_;
  int64_t rows_ = 0;
};

template <typename Moved>
void RowStore::drop_filling(std::span<const int64_t> slots, const Moved& moved) {
  const int64_t kept = rows_ - static_cast<int64_t>(slots.size());
  auto doomed = slots.end();  // walks down from the largest dropped slot
  int64_t source = rows_ - 1;
  for (auto hole = slots.begin(); hole != slots.end() && *hole < kept; ++hole) {
    while (doomed != slots.begin() && *(doomed - 1) == source) --doomed, --source;
    copy_row(source, *hole);
    moved(source, *hole);
    --source;
  }
  truncate(kept);
}

}  // namespace ashlar
