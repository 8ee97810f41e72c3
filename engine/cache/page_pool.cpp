#include "engine/cache/page_pool.h"

#include <cstring>

namespace ashlar {

void PagePool::reserve(int64_t bytes, int64_t count) {
  stepping_ = true;
  if (count == 0) return;
  std::vector<PageId>& pages = reserve_[bytes];
  for (int64_t i = 0; i < count; ++i) pages.push_back(arena_.allocate(bytes));
}

void PagePool::release_reserve() {
  stepping_ = false;
  for (auto& [bytes, pages] : reserve_) {
    for (const PageId page : pages) arena_.release(page);
    pages.clear();
  }
}

PageId PagePool::take(int64_t bytes) {
  std::vector<PageId>& pages = reserve_[bytes];
  if (pages.empty()) {
    const PageId page = arena_.allocate(bytes);
    ++unplanned_;
    bytes_ += bytes;
    return page;
  }
  const PageId page = pages.back();
  pages.pop_back();
  bytes_ += bytes;
  return page;
}

void PagePool::give(PageId page) {
  const int64_t bytes = arena_.bytes(page);
  bytes_ -= bytes;
  // A step may drop rows and then encode others.
  if (stepping_ && arena_.exclusive(page)) {
    reserve_[bytes].push_back(page);
  } else {
    arena_.release(page);
  }
}

PageId PagePool::lend(const std::byte* memory, int64_t bytes) {
  const PageId page = arena_.lend(memory, bytes);
  bytes_ += bytes;
  return page;
}

void PagePool::share(PageId page) {
  arena_.retain(page);
  bytes_ += arena_.bytes(page);
}

PageId PagePool::own(PageId page) {
  if (arena_.exclusive(page)) return page;
  const int64_t bytes = arena_.bytes(page);
  const PageId copy = take(bytes);
  std::memcpy(arena_.writable(copy), arena_.address(page), static_cast<size_t>(bytes));
  give(page);
  return copy;
}

}  // namespace ashlar
