#include "engine/cache/arena.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) {
    if (chunk.memory != nullptr) memory_.release(chunk.memory);
  }
}

int32_t Arena::new_chunk(int64_t page_bytes) {
  Chunk chunk;
  chunk.page_bytes = page_bytes;
  chunk.page_stride = round_up(page_bytes, 64);
  chunk.bytes = round_up(std::max(kChunkBytes, chunk.page_stride), kChunkBytes);
  chunk.memory = memory_.allocate(chunk.bytes);
  chunk.slots = static_cast<int32_t>(chunk.bytes / chunk.page_stride);
  for (int32_t s = chunk.slots - 1; s >= 0; --s) chunk.free.push_back(s);
  chunk_bytes_ += chunk.bytes;
  const auto vacant = std::find_if(chunks_.begin(), chunks_.end(),
                                   [](const Chunk& c) { return c.memory == nullptr; });
  const auto index = static_cast<int32_t>(vacant - chunks_.begin());
  if (vacant == chunks_.end()) {
    chunks_.push_back(std::move(chunk));
  } else {
    *vacant = std::move(chunk);
  }
  return index;
}

PageId Arena::allocate(int64_t bytes) {
  ASHLAR_CHECK_GT(bytes, 0);
  auto fits = std::find_if(chunks_.begin(), chunks_.end(), [bytes](const Chunk& c) {
    return c.memory != nullptr && c.page_bytes == bytes && !c.free.empty();
  });
  const int32_t index =
      fits != chunks_.end() ? static_cast<int32_t>(fits - chunks_.begin()) : new_chunk(bytes);
  Chunk& chunk = chunks_[static_cast<size_t>(index)];
  const PageId page{index, chunk.free.back()};
  chunk.free.pop_back();
  ++pages_in_use_;
  page_bytes_ += bytes;
  return page;
}

void Arena::release(PageId page) {
  ASHLAR_CHECK(page.chunk >= 0 && page.chunk < static_cast<int32_t>(chunks_.size()));
  Chunk& chunk = chunks_[static_cast<size_t>(page.chunk)];
  ASHLAR_CHECK(chunk.memory != nullptr && page.slot >= 0 && page.slot < chunk.slots);
  chunk.free.push_back(page.slot);
  --pages_in_use_;
  page_bytes_ -= chunk.page_bytes;
  if (static_cast<int32_t>(chunk.free.size()) < chunk.slots) return;
  memory_.release(chunk.memory);
  chunk_bytes_ -= chunk.bytes;
  chunk = Chunk{};
}

std::byte* Arena::address(PageId page) const {
  const Chunk& chunk = chunks_[static_cast<size_t>(page.chunk)];
  return chunk.memory + page.slot * chunk.page_stride;
}

}  // namespace ashlar
