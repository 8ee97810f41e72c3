#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/cache/arena.h"

namespace ashlar {

/// The pages of one sequence. What a step may need is reserved before it begins, so that a step
/// never fails half-way for want of memory: pages put aside serve the step even where their chunk
/// has been retired since (Arena::retire), which then waits for release_reserve.
class PagePool {
 public:
  explicit PagePool(Arena& arena) : arena_(arena) {}
  ~PagePool() { release_reserve(); }
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  Arena& arena() const { return arena_; }

  /// Puts `count` more pages of `bytes` aside; from now on, also what is given back. Throws
  /// Error(kResource); what was put aside before stays.
  void reserve(int64_t bytes, int64_t count);
  void release_reserve();

  /// A page of `bytes`, from the reserve if it has one.
  PageId take(int64_t bytes);
  void give(PageId page);
  /// A page that lies elsewhere (Arena::lend).
  PageId lend(const std::byte* memory, int64_t bytes);
  /// Another owner's page becomes one of this sequence too.
  void share(PageId page);
  /// `page` itself if nobody else owns it and it is not lent; otherwise a copy that takes its
  /// place.
  PageId own(PageId page);

  /// Bytes of this sequence's pages, shared ones in full, the reserve not included.
  int64_t bytes() const { return bytes_; }
  /// Pages that were taken without having been put aside.
  int64_t unplanned() const { return unplanned_; }

 private:
  Arena& arena_;
  std::unordered_map<int64_t, std::vector<PageId>> reserve_;  // by page bytes
  bool stepping_ = false;                                     // between reserve and release_reserve
  int64_t bytes_ = 0;
  int64_t unplanned_ = 0;
};

}  // namespace ashlar
