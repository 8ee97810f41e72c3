// Duplicates of documents. MinHash: A. Broder, "On the resemblance and containment of documents",
// SEQUENCES 1997. Its use on training text: Lee et al. 2022 (arXiv 2107.06499), which finds that
// removing near duplicates at a Jaccard similarity of 0.8 makes models repeat their data less.
// Deviations: fewer values (128, theirs 9000), so a weaker banding, made up for by comparing whole
// signatures instead of edit distances; a document is compared with kept ones only, and not with
// the transitive closure of duplicates, so that the first of its kind stays and the answer needs no
// second pass.
#include "data/shards/duplicates.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/io/sha256.h"

namespace ashlar {
namespace {

constexpr uint64_t kHashSeed = 0x6d696e68617368;  // "minhash"

uint64_t mix(uint64_t x) {  // finalizer of SplitMix64 (Steele et al. 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

bool is_word(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 128;
}

/// 64-bit hashes of the words of a text.
std::vector<uint64_t> words_of(std::string_view text) {
  std::vector<uint64_t> words;
  uint64_t hash = 0;
  bool inside = false;
  const auto end_word = [&] {
    if (inside) words.push_back(mix(hash));
    hash = 0;
    inside = false;
  };
  for (const char raw : text) {
    const auto c = static_cast<unsigned char>(raw);
    if (!is_word(c)) {
      end_word();
      continue;
    }
    const unsigned lower = c >= 'A' && c <= 'Z' ? c + 32u : c;
    hash = (hash + lower + 1) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
    inside = true;
  }
  end_word();
  return words;
}

}  // namespace

void validate(const DuplicateOptions& o) {
  if (o.kind != Duplicates::kNear) return;
  require(o.threshold > 0 && o.threshold <= 1, ErrorCode::kRequest,
          "duplicate threshold {}: must be in (0, 1]", o.threshold);
  require(o.ngram >= 1 && o.ngram <= 100, ErrorCode::kRequest,
          "duplicate n-grams of {} words: must be in 1 to 100", o.ngram);
  require(
      o.bands >= 1 && o.rows >= 1 && o.bands <= 1024 && o.rows <= 1024 && o.bands * o.rows <= 4096,
      ErrorCode::kRequest, "{} duplicate bands of {} rows: must be 1 to 4096 values in all",
      o.bands, o.rows);
}

DocumentHasher::DocumentHasher(const DuplicateOptions& options) : options_(options) {
  const Philox random(kHashSeed);
  for (int64_t i = 0; i < options.values(); ++i) {
    const auto at = static_cast<uint64_t>(2 * i);
    hashes_.push_back({random.bits(at) | 1, random.bits(at + 1)});
  }
}

DocumentKey DocumentHasher::key(std::string_view text) const {
  DocumentKey out;
  if (options_.kind == Duplicates::kKeep) return out;
  const std::string hex = sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
  for (size_t half = 0; half < 2; ++half) {
    out.digest[half] = std::stoull(hex.substr(16 * half, 16), nullptr, 16);
  }
  if (options_.kind == Duplicates::kNear) out.signature = signature(text);
  return out;
}

std::vector<uint32_t> DocumentHasher::signature(std::string_view text) const {
  std::vector<uint64_t> words = words_of(text);
  if (words.empty()) {
    for (const char c : text) words.push_back(mix(static_cast<unsigned char>(c) + 1));
  }
  const size_t n = std::min(static_cast<size_t>(options_.ngram), words.size());
  std::vector<uint64_t> grams;
  for (size_t i = 0; n > 0 && i + n <= words.size(); ++i) {
    uint64_t gram = n;
    for (size_t k = 0; k < n; ++k) gram = mix(gram * 0x9e3779b97f4a7c15 + words[i + k]);
    grams.push_back(gram);
  }
  std::vector<uint32_t> least(hashes_.size(), std::numeric_limits<uint32_t>::max());
  for (const uint64_t gram : grams) {
    for (size_t i = 0; i < hashes_.size(); ++i) {
      const auto value = static_cast<uint32_t>((gram * hashes_[i][0] + hashes_[i][1]) >> 32);
      least[i] = std::min(least[i], value);
    }
  }
  return least;
}

double estimated_similarity(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  ASHLAR_CHECK(a.size() == b.size() && !a.empty());
  size_t same = 0;
  for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i] ? 1 : 0;
  return static_cast<double>(same) / static_cast<double>(a.size());
}

uint32_t& DuplicateIndex::Table::operator[](uint64_t key) {
  if (2 * (used_ + 1) > keys_.size()) grow();
  key = key == 0 ? 1 : key;
  const size_t mask = keys_.size() - 1;
  size_t at = mix(key) & mask;
  while (keys_[at] != 0 && keys_[at] != key) at = (at + 1) & mask;
  used_ += keys_[at] == 0 ? 1 : 0;
  keys_[at] = key;
  return values_[at];
}

uint32_t DuplicateIndex::Table::find(uint64_t key) const {
  if (keys_.empty()) return 0;
  key = key == 0 ? 1 : key;
  const size_t mask = keys_.size() - 1;
  size_t at = mix(key) & mask;
  while (keys_[at] != 0 && keys_[at] != key) at = (at + 1) & mask;
  return keys_[at] == 0 ? 0 : values_[at];
}

void DuplicateIndex::Table::grow() {
  Table larger;
  larger.keys_.resize(std::max<size_t>(64, 2 * keys_.size()));
  larger.values_.resize(larger.keys_.size());
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i] != 0) larger[keys_[i]] = values_[i];
  }
  *this = std::move(larger);
}

uint64_t DuplicateIndex::band_key(std::span<const uint32_t> signature, int64_t band) const {
  uint64_t key = static_cast<uint64_t>(band) + 1;
  for (int64_t r = 0; r < options_.rows; ++r) {
    key = mix(key * 0x9e3779b97f4a7c15 + signature[static_cast<size_t>(band * options_.rows + r)]);
  }
  return key;
}

bool DuplicateIndex::known_digest(const std::array<uint64_t, 2>& digest) const {
  for (uint32_t d = by_digest_.find(digest[0]); d != 0; d = same_half_[d - 1]) {
    if (digests_[d - 1] == digest) return true;
  }
  return false;
}

bool DuplicateIndex::known_signature(const std::vector<uint32_t>& signature) const {
  const auto bands = static_cast<size_t>(options_.bands);
  for (size_t band = 0; band < bands; ++band) {
    uint32_t d = by_band_.find(band_key(signature, static_cast<int64_t>(band)));
    for (; d != 0; d = same_band_[(d - 1) * bands + band]) {
      if (estimated_similarity(signature, signatures_[d - 1]) >= options_.threshold) return true;
    }
  }
  return false;
}

Duplicates DuplicateIndex::add(const DocumentKey& key) {
  if (options_.kind == Duplicates::kKeep) return Duplicates::kKeep;
  if (known_digest(key.digest)) return Duplicates::kExact;
  if (options_.kind == Duplicates::kNear && known_signature(key.signature)) {
    return Duplicates::kNear;
  }
  keep(key);
  return Duplicates::kKeep;
}

void DuplicateIndex::keep(const DocumentKey& key) {
  require(documents_ < std::numeric_limits<uint32_t>::max() - 1, ErrorCode::kResource,
          "duplicates are looked for among at most {} documents", documents_);
  const auto number = static_cast<uint32_t>(++documents_);
  digests_.push_back(key.digest);
  uint32_t& last = by_digest_[key.digest[0]];
  same_half_.push_back(std::exchange(last, number));
  if (options_.kind != Duplicates::kNear) return;
  ASHLAR_CHECK_EQ(static_cast<int64_t>(key.signature.size()), options_.values());
  signatures_.push_back(key.signature);
  for (int64_t band = 0; band < options_.bands; ++band) {
    uint32_t& last_of_band = by_band_[band_key(key.signature, band)];
    same_band_.push_back(std::exchange(last_of_band, number));
  }
}

}  // namespace ashlar
