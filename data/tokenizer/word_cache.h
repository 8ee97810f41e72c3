#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

namespace ashlar {

/// Remembers the ids of short pieces of text, which repeat. One thread at a time.
class WordCache {
 public:
  static constexpr size_t kLongestWord = 26;  ///< bytes
  static constexpr size_t kMostIds = 8;

  /// The place of a word of 1 to kLongestWord bytes.
  class Slot {
   public:
    bool holds(std::string_view word) const;
    std::span<const int32_t> ids() const { return {ids_, count_}; }
    /// Takes the place, whoever had it. Ids beyond kMostIds are not remembered.
    void put(std::string_view word, std::span<const int32_t> ids);

   private:
    uint8_t size_ = 0;  ///< 0: free
    uint8_t count_ = 0;
    char bytes_[30] = {};
    int32_t ids_[kMostIds] = {};
  };
  static_assert(sizeof(Slot) == 64);

  WordCache() : slots_(kSlots) {}
  Slot& at(std::string_view word);

 private:
  static constexpr size_t kSlots = 1 << 15;  // 2 MiB
  std::vector<Slot> slots_;
};

/// Caches of one tokenizer: as many as threads have used it at once.
class WordCaches {
 public:
  /// A cache of the caller's own while it lives.
  class Lease {
   public:
    explicit Lease(WordCaches& owner) : owner_(owner), cache_(owner.take()) {}
    ~Lease() { owner_.give(std::move(cache_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    WordCache& operator*() const { return *cache_; }

   private:
    WordCaches& owner_;
    std::unique_ptr<WordCache> cache_;
  };

 private:
  std::unique_ptr<WordCache> take();
  void give(std::unique_ptr<WordCache> cache);

  std::mutex mutex_;
  std::vector<std::unique_ptr<WordCache>> free_;
};

}  // namespace ashlar
