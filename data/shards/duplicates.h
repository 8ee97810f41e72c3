#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace ashlar {

enum class Duplicates {
  kKeep,
  kExact,  ///< the same bytes
  kNear,   ///< those too, and nearly the same words
};

/// Which documents count as duplicates of an earlier one. Near duplicates: the sets of word n-grams
/// of two documents have an estimated Jaccard similarity of at least `threshold`. Candidates are
/// found by locality-sensitive hashing of MinHash signatures in `bands` bands of `rows` values: a
/// pair of similarity s is seen with probability 1 − (1 − s^rows)^bands, 0.95 at 0.8 and 0.61 at
/// 0.7 by default, and is then compared by whole signatures.
struct DuplicateOptions {
  Duplicates kind = Duplicates::kKeep;
  double threshold = 0.8;
  int64_t ngram = 5;  ///< words
  int64_t bands = 16;
  int64_t rows = 8;
  int64_t values() const { return kind == Duplicates::kNear ? bands * rows : 0; }
};
/// Throws Error(kRequest) for a value out of range.
void validate(const DuplicateOptions& options);

/// What a document is compared by.
struct DocumentKey {
  std::array<uint64_t, 2> digest{};  ///< first 128 bits of the SHA-256 of its bytes
  std::vector<uint32_t> signature;   ///< MinHash; empty unless near duplicates are looked for
};

/// Computes keys. Words are runs of ASCII letters, digits and bytes from 128 on, compared without
/// ASCII case. A document of fewer words than `ngram` is one n-gram, one without words its bytes.
/// Safe for any number of threads.
class DocumentHasher {
 public:
  explicit DocumentHasher(const DuplicateOptions& options);
  DocumentKey key(std::string_view text) const;

 private:
  std::vector<uint32_t> signature(std::string_view text) const;

  DuplicateOptions options_;
  std::vector<std::array<uint64_t, 2>> hashes_;  ///< h(x) = (a·x + b) / 2^32 of each value
};

/// Share of the values in which two signatures agree: an unbiased estimate of the Jaccard
/// similarity, with deviation √(s(1 − s)/values).
double estimated_similarity(std::span<const uint32_t> a, std::span<const uint32_t> b);

/// The documents kept so far. Memory per kept document: about 60 bytes for exact duplicates; for
/// near ones 4 bytes a value and 30 to 55 a band more, by default 1 to 1.4 kB.
class DuplicateIndex {
 public:
  explicit DuplicateIndex(const DuplicateOptions& options) : options_(options) {}

  /// What kind of duplicate of a kept document this one is; kKeep for none, it is then kept. The
  /// documents must come in the order of the input.
  Duplicates add(const DocumentKey& key);
  /// Adds a document that is known to be kept.
  void keep(const DocumentKey& key);
  int64_t documents() const { return documents_; }

 private:
  // A hash table from 64 bits to 32, with linear probing.
  class Table {
   public:
    uint32_t& operator[](uint64_t key);  ///< 0 when it was not there
    uint32_t find(uint64_t key) const;

   private:
    void grow();
    std::vector<uint64_t> keys_;  ///< 0: free
    std::vector<uint32_t> values_;
    size_t used_ = 0;
  };
  bool known_digest(const std::array<uint64_t, 2>& digest) const;
  bool known_signature(const std::vector<uint32_t>& signature) const;
  uint64_t band_key(std::span<const uint32_t> signature, int64_t band) const;

  DuplicateOptions options_;
  int64_t documents_ = 0;
  Table by_digest_;  ///< first half → number + 1 of the last such document
  std::deque<std::array<uint64_t, 2>> digests_;
  std::deque<uint32_t> same_half_;  ///< previous document + 1 of the same first half
  Table by_band_;                   ///< band key → number + 1 of the last such document
  std::deque<uint32_t> same_band_;  ///< [document][band]: previous one + 1
  std::deque<std::vector<uint32_t>> signatures_;
};

}  // namespace ashlar
