#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/cache/backup_store.h"
#include "engine/cache/memory.h"

namespace ashlar {

/// Stable name of a page: which chunk and which slot of it.
struct PageId {
  int32_t chunk = -1;
  int32_t slot = -1;
  bool operator==(const PageId&) const = default;
  explicit operator bool() const { return chunk >= 0; }
};

/// Pages of fixed sizes cut from chunks of 2 MiB. A chunk serves one size class and goes back to
/// the provider when its last page is released, so no empty chunk is ever kept; chunk indices are
/// stable while in use. Pages count their owners, so that sequences can share them.
///
/// Memory that somebody else needs is donated by retiring chunks: no page of a retired chunk is
/// handed out any more, and it goes back with its last page. Pages that have owners stay where they
/// are, valid and shareable, and what a PagePool has put aside has an owner: a step that has begun
/// is never short of it. Until then the provider counts the chunk, and new pages come from others,
/// so that a budget can be exhausted while retired chunks have free slots. Single-threaded.
class Arena {
 public:
  static constexpr int64_t kChunkBytes = int64_t{2} << 20;

  explicit Arena(MemoryProvider& memory, const BackupOptions& backups = {})
      : memory_(memory), backups_(backups) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A page of `bytes` (> 0) with one owner, 64-byte aligned. Throws Error(kResource) when the
  /// provider is exhausted.
  PageId allocate(int64_t bytes);
  /// A page of `bytes` with one owner that lies elsewhere: it takes no memory from the provider, is
  /// read where it is and never written (a PagePool copies it before). Whoever owns it sees to it
  /// that `memory` stays.
  PageId lend(const std::byte* memory, int64_t bytes);
  bool lent(PageId page) const { return page.chunk == kLentChunk; }
  /// One more owner, one owner less; a page without owners is free.
  void retain(PageId page);
  void release(PageId page);
  int32_t owners(PageId page) const;
  /// One owner may write to it: it has no other and is not lent.
  bool exclusive(PageId page) const { return owners(page) == 1 && !lent(page); }
  const std::byte* address(PageId page) const;
  /// The same of a page that is not lent.
  std::byte* writable(PageId page) const;

  /// Hands out no more pages of chunk `index`, which holds some and is not retired: it goes back to
  /// the provider with its last page. Other chunks keep their indices.
  void retire(int32_t index);
  /// Retires chunks of at least `bytes` (> 0) together, those with the fewest bytes of pages first;
  /// all of them if they are smaller. Returns the bytes that will come back by it.
  int64_t retire_bytes(int64_t bytes);
  /// Whether chunk `index`, which is in use, is retired.
  bool retired(int32_t index) const { return in_use(index).retired; }
  /// Bytes of retired chunks that wait for their last page.
  int64_t retired_bytes() const { return retired_bytes_; }
  /// The requested size of a page.
  int64_t bytes(PageId page) const;

  MemoryProvider& memory() const { return memory_; }
  /// Where copies of pages go that may leave the arena and come back.
  BackupStore& backups() { return backups_; }
  const BackupStore& backups() const { return backups_; }
  int64_t pages_in_use() const { return pages_in_use_; }
  /// Sum of the requested sizes of live pages, shared ones once.
  int64_t page_bytes_in_use() const { return page_bytes_; }
  /// Sum of the requested sizes over all owners of live pages.
  int64_t owned_bytes() const { return owned_bytes_; }
  /// Bytes taken from the provider for chunks.
  int64_t chunk_bytes_in_use() const { return chunk_bytes_; }

 private:
  static constexpr int32_t kLentChunk = INT32_MAX;
  struct Lent {
    const std::byte* memory = nullptr;
    int64_t bytes = 0;
    int32_t owners = 0;
  };
  struct Chunk {
    std::byte* memory = nullptr;  // null: the index is free for reuse
    int64_t bytes = 0;
    int64_t page_bytes = 0;   // requested size
    int64_t page_stride = 0;  // rounded up to 64
    bool retired = false;
    std::vector<int32_t> free;    // slots
    std::vector<int32_t> owners;  // of each slot
  };

  Lent& lent_page(PageId page);
  const Lent& lent_page(PageId page) const;
  int32_t& owners_of(PageId page);
  void count_new(int64_t bytes);
  void free_slot(PageId page);
  Chunk& chunk(PageId page);
  const Chunk& chunk(PageId page) const;
  const Chunk& in_use(int32_t index) const;
  int64_t live_bytes(const Chunk& chunk) const;
  int32_t new_chunk(int64_t page_bytes);

  MemoryProvider& memory_;
  BackupStore backups_;
  std::vector<Chunk> chunks_;
  std::unordered_map<int64_t, std::vector<int32_t>> open_;  // chunks to cut from, by page bytes
  std::vector<int32_t> vacant_;                             // indices for reuse
  std::vector<Lent> lent_;
  std::vector<int32_t> vacant_lent_;
  int64_t pages_in_use_ = 0;
  int64_t page_bytes_ = 0;
  int64_t owned_bytes_ = 0;
  int64_t chunk_bytes_ = 0;
  int64_t retired_bytes_ = 0;
};

}  // namespace ashlar
