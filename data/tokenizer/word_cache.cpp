#include "data/tokenizer/word_cache.h"

#include <algorithm>
#include <cstring>

namespace ashlar {
namespace {

uint64_t load(const char* bytes, size_t size) {
  uint64_t value = 0;
  std::memcpy(&value, bytes, size);
  return value;
}

/// First and last eight bytes, which overlap in short words; between them lie at most ten more.
uint64_t hash(std::string_view word) {
  constexpr uint64_t kMix = 0x9E3779B97F4A7C15u;
  const size_t n = word.size();
  uint64_t a = 0, b = 0;
  if (n >= 8) {
    a = load(word.data(), 8);
    b = load(word.data() + n - 8, 8);
    if (n > 16) a ^= load(word.data() + 8, 8) * 0xD6E8FEB86659FD93u;
  } else if (n >= 4) {
    a = load(word.data(), 4);
    b = load(word.data() + n - 4, 4);
  } else {
    a = load(word.data(), 1);
    b = load(word.data() + n / 2, 1) << 8 | load(word.data() + n - 1, 1);
  }
  uint64_t h = (a ^ (n << 56)) * kMix;
  h = (h ^ (h >> 29) ^ b) * kMix;
  return h ^ (h >> 32);
}

}  // namespace

bool WordCache::Slot::holds(std::string_view word) const {
  return size_ == word.size() && std::memcmp(bytes_, word.data(), word.size()) == 0;
}

void WordCache::Slot::put(std::string_view word, std::span<const int32_t> ids) {
  if (ids.size() > kMostIds) return;
  size_ = static_cast<uint8_t>(word.size());
  count_ = static_cast<uint8_t>(ids.size());
  std::copy(word.begin(), word.end(), bytes_);
  std::copy(ids.begin(), ids.end(), ids_);
}

WordCache::Slot& WordCache::at(std::string_view word) { return slots_[hash(word) & (kSlots - 1)]; }

std::unique_ptr<WordCache> WordCaches::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return std::make_unique<WordCache>();
  std::unique_ptr<WordCache> cache = std::move(free_.back());
  free_.pop_back();
  return cache;
}

void WordCaches::give(std::unique_ptr<WordCache> cache) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(cache));
}

}  // namespace ashlar
