#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/cache/memory.h"

namespace ashlar {

/// Stable name of a page: which chunk and which slot of it.
struct PageId {
  int32_t chunk = -1;
  int32_t slot = -1;
  bool operator==(const PageId&) const = default;
};

/// Pages of fixed sizes cut from chunks of 2 MiB. A chunk serves one size class and goes back to
/// the provider when its last page is released; chunk indices are stable while in use.
/// Single-threaded.
class Arena {
 public:
  static constexpr int64_t kChunkBytes = int64_t{2} << 20;

  explicit Arena(MemoryProvider& memory) : memory_(memory) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A page of `bytes` (> 0), 64-byte aligned. Throws Error(kResource) when the provider is
  /// exhausted.
  PageId allocate(int64_t bytes);
  void release(PageId page);
  std::byte* address(PageId page) const;

  int64_t pages_in_use() const { return pages_in_use_; }
  /// Sum of the requested sizes of live pages.
  int64_t page_bytes_in_use() const { return page_bytes_; }
  /// Bytes taken from the provider for chunks.
  int64_t chunk_bytes_in_use() const { return chunk_bytes_; }

 private:
  struct Chunk {
    std::byte* memory = nullptr;  // null: the index is free for reuse
    int64_t bytes = 0;
    int64_t page_bytes = 0;   // requested size
    int64_t page_stride = 0;  // rounded up to 64
    std::vector<int32_t> free;
    int32_t slots = 0;
  };

  int32_t new_chunk(int64_t page_bytes);

  MemoryProvider& memory_;
  std::vector<Chunk> chunks_;
  int64_t pages_in_use_ = 0;
  int64_t page_bytes_ = 0;
  int64_t chunk_bytes_ = 0;
};

}  // namespace ashlar
