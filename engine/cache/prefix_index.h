#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/cache/page_pool.h"
#include "engine/cache/sequence_cache.h"

// Texts that begin alike share the pages of their common beginning (as RadixAttention and vLLM's
// prefix caching do), page by page of positions. A page's name is a SHA-256 over everything that
// its bytes depend on: what the text belongs to (model, tenant, cache options) and all tokens up to
// its end. The bits of a text do not depend on whether it shares: pages are those that it would
// have computed. Shared are texts whose policy keeps no scores, up to the first row it drops;
// policies that keep scores do not share.

namespace ashlar {

using PrefixHash = std::array<std::byte, 32>;

/// The hash chain of one text: a name for each of its full pages.
class PrefixChain {
 public:
  /// `scope`: everything but the tokens that bytes depend on. `page_tokens`: tokens that the rows
  /// of a page stand for.
  PrefixChain(const std::string& scope, int64_t page_tokens);
  void add(std::span<const int32_t> tokens);
  /// Names of the full pages so far.
  std::span<const PrefixHash> pages() const { return pages_; }

 private:
  int64_t page_tokens_;
  PrefixHash last_;
  std::vector<int32_t> open_;  // tokens of the page under way
  std::vector<PrefixHash> pages_;
};

/// Pages of texts that have been fed, kept for texts to come until `capacity` bytes of pages are
/// used or somebody needs the memory. Single-threaded.
class PrefixIndex {
 public:
  PrefixIndex(Arena& arena, int64_t capacity) : pool_(arena), capacity_(capacity) {}
  ~PrefixIndex() { clear(); }

  /// Whether caches with this policy and these options share.
  static bool shares(const Policy* policy, const CacheOptions& options) {
    return why_not(policy, options) == nullptr;
  }
  /// Why pages of other texts would not do for such a cache; null where it shares.
  static const char* why_not(const Policy* policy, const CacheOptions& options);

  /// How many full pages of `chain`, at most `most`, a new cache of the kind of `like` can take.
  int64_t match(std::span<const PrefixHash> chain, int64_t most, const SequenceCache& like) const;
  /// Makes the empty `cache` one that holds the first `pages` pages; as match() said.
  void adopt(std::span<const PrefixHash> chain, int64_t pages, SequenceCache& cache);
  /// Keeps what `cache`, whose text is `chain`, holds of its full pages from `first` on; between
  /// steps. Returns how many pages have their last form, from where to go on.
  int64_t publish(std::span<const PrefixHash> chain, int64_t first, const SequenceCache& cache);

  /// Gives back the pages that were used least recently and that no others follow; false if there
  /// are none.
  bool evict_one();
  void clear();
  int64_t bytes() const { return pool_.bytes(); }

 private:
  struct Forms {
    PageId last, late;  // as coded (or for good fp16), and as fp16 until coded
  };
  struct Entry {
    std::vector<Forms> lanes;  // of all cached groups in order
    std::list<PrefixHash>::iterator age;
    std::optional<PrefixHash> before;  // the page before it
    int64_t behind = 0;                // pages behind it that are kept
  };

  void touch(Entry& entry);
  /// The entry of page `page` of a text; null if it is not there and the page before it is not.
  Entry* find_or_add(std::span<const PrefixHash> chain, int64_t page, size_t lanes);

  PagePool pool_;
  int64_t capacity_;
  std::map<PrefixHash, Entry> entries_;
  std::list<PrefixHash> ages_;  // oldest first
};

}  // namespace ashlar
