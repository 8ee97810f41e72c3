#include "engine/cache/arena.h"

#include <algorithm>
#include <utility>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) {
    if (chunk.memory != nullptr) memory_.release(chunk.memory);
  }
}

Arena::Chunk& Arena::chunk(PageId page) {
  ASHLAR_CHECK(page.chunk >= 0 && page.chunk < static_cast<int32_t>(chunks_.size()));
  Chunk& chunk = chunks_[static_cast<size_t>(page.chunk)];
  ASHLAR_CHECK(page.slot >= 0 && page.slot < static_cast<int32_t>(chunk.owners.size()));
  return chunk;
}

const Arena::Chunk& Arena::chunk(PageId page) const {
  return const_cast<Arena*>(this)->chunk(page);
}

int32_t Arena::new_chunk(int64_t page_bytes) {
  Chunk chunk;
  chunk.page_bytes = page_bytes;
  chunk.page_stride = round_up(page_bytes, 64);
  chunk.bytes = round_up(std::max(kChunkBytes, chunk.page_stride), kChunkBytes);
  chunk.memory = memory_.allocate(chunk.bytes);
  const int64_t slots = chunk.bytes / chunk.page_stride;
  for (int64_t s = slots - 1; s >= 0; --s) chunk.free.push_back(static_cast<int32_t>(s));
  chunk.owners.resize(static_cast<size_t>(slots));
  chunk_bytes_ += chunk.bytes;
  if (vacant_.empty()) {
    chunks_.push_back(std::move(chunk));
    return static_cast<int32_t>(chunks_.size()) - 1;
  }
  const int32_t index = vacant_.back();
  vacant_.pop_back();
  chunks_[static_cast<size_t>(index)] = std::move(chunk);
  return index;
}

PageId Arena::allocate(int64_t bytes) {
  ASHLAR_CHECK_GT(bytes, 0);
  std::vector<int32_t>& open = open_[bytes];
  if (open.empty()) open.push_back(new_chunk(bytes));
  Chunk& chunk = chunks_[static_cast<size_t>(open.back())];
  const PageId page{open.back(), chunk.free.back()};
  chunk.free.pop_back();
  if (chunk.free.empty()) open.pop_back();
  chunk.owners[static_cast<size_t>(page.slot)] = 1;
  count_new(bytes);
  return page;
}

PageId Arena::lend(const std::byte* memory, int64_t bytes) {
  ASHLAR_CHECK(memory != nullptr && bytes > 0);
  if (vacant_lent_.empty()) {
    vacant_lent_.push_back(static_cast<int32_t>(lent_.size()));
    lent_.emplace_back();
  }
  const PageId page{kLentChunk, vacant_lent_.back()};
  vacant_lent_.pop_back();
  lent_[static_cast<size_t>(page.slot)] = {memory, bytes, 1};
  count_new(bytes);
  return page;
}

void Arena::count_new(int64_t bytes) {
  ++pages_in_use_;
  page_bytes_ += bytes;
  owned_bytes_ += bytes;
}

const Arena::Lent& Arena::lent_page(PageId page) const {
  ASHLAR_CHECK(page.slot >= 0 && page.slot < static_cast<int32_t>(lent_.size()));
  const Lent& lent = lent_[static_cast<size_t>(page.slot)];
  ASHLAR_CHECK_GT(lent.owners, 0);
  return lent;
}

Arena::Lent& Arena::lent_page(PageId page) {
  return const_cast<Lent&>(std::as_const(*this).lent_page(page));
}

int32_t& Arena::owners_of(PageId page) {
  return lent(page) ? lent_page(page).owners : chunk(page).owners[static_cast<size_t>(page.slot)];
}

void Arena::retain(PageId page) {
  int32_t& owners = owners_of(page);
  ASHLAR_CHECK_GT(owners, 0);
  ++owners;
  owned_bytes_ += bytes(page);
}

void Arena::release(PageId page) {
  const int64_t page_bytes = bytes(page);
  int32_t& owners = owners_of(page);
  ASHLAR_CHECK_GT(owners, 0);
  owned_bytes_ -= page_bytes;
  if (--owners > 0) return;
  --pages_in_use_;
  page_bytes_ -= page_bytes;
  if (lent(page)) {
    vacant_lent_.push_back(page.slot);
  } else {
    free_slot(page);
  }
}

void Arena::free_slot(PageId page) {
  Chunk& c = chunk(page);
  std::vector<int32_t>& open = open_[c.page_bytes];
  if (c.free.empty() && !c.retired) open.push_back(page.chunk);
  c.free.push_back(page.slot);
  if (c.free.size() < c.owners.size()) return;
  if (c.retired) {
    retired_bytes_ -= c.bytes;
  } else {
    open.erase(std::find(open.begin(), open.end(), page.chunk));
  }
  memory_.release(c.memory);
  chunk_bytes_ -= c.bytes;
  c = Chunk{};
  vacant_.push_back(page.chunk);
}

const Arena::Chunk& Arena::in_use(int32_t index) const {
  ASHLAR_CHECK(index >= 0 && index < static_cast<int32_t>(chunks_.size()));
  const Chunk& c = chunks_[static_cast<size_t>(index)];
  ASHLAR_CHECK(c.memory != nullptr);
  return c;
}

int64_t Arena::live_bytes(const Chunk& chunk) const {
  return static_cast<int64_t>(chunk.owners.size() - chunk.free.size()) * chunk.page_bytes;
}

void Arena::retire(int32_t index) {
  ASHLAR_CHECK(!in_use(index).retired);
  Chunk& c = chunks_[static_cast<size_t>(index)];
  c.retired = true;
  retired_bytes_ += c.bytes;
  std::vector<int32_t>& open = open_[c.page_bytes];
  if (!c.free.empty()) open.erase(std::find(open.begin(), open.end(), index));
}

int64_t Arena::retire_bytes(int64_t bytes) {
  ASHLAR_CHECK_GT(bytes, 0);
  std::vector<std::pair<int64_t, int32_t>> candidates;  // emptiest first; of equals, the first
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const Chunk& c = chunks_[i];
    if (c.memory == nullptr || c.retired) continue;
    candidates.emplace_back(live_bytes(c), static_cast<int32_t>(i));
  }
  std::sort(candidates.begin(), candidates.end());
  int64_t coming = 0;
  for (const auto& [live, index] : candidates) {
    if (coming >= bytes) break;
    coming += in_use(index).bytes;
    retire(index);
  }
  return coming;
}

int32_t Arena::owners(PageId page) const { return const_cast<Arena*>(this)->owners_of(page); }

const std::byte* Arena::address(PageId page) const {
  return lent(page) ? lent_page(page).memory : writable(page);
}

std::byte* Arena::writable(PageId page) const {
  ASHLAR_CHECK(!lent(page));
  const Chunk& c = chunk(page);
  return c.memory + page.slot * c.page_stride;
}

int64_t Arena::bytes(PageId page) const {
  return lent(page) ? lent_page(page).bytes : chunk(page).page_bytes;
}

}  // namespace ashlar
