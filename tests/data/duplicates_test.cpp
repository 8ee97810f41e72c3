#include "data/shards/duplicates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "tests/data/prepare_support.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words = {""};
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      words.back() += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

/// The set of word n-grams, sorted.
std::vector<uint64_t> grams_of(const std::string& text, size_t n) {
  const std::vector<std::string> words = words_of(text);
  std::set<uint64_t> out;
  for (size_t i = 0; i + n <= words.size(); ++i) {
    std::string gram;
    for (size_t k = i; k < i + n; ++k) gram += words[k] + " ";
    out.insert(std::hash<std::string>()(gram));
  }
  return {out.begin(), out.end()};
}

/// The definition: |A ∩ B| / |A ∪ B|.
double jaccard(const std::vector<uint64_t>& a, const std::vector<uint64_t>& b) {
  std::vector<uint64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(a.size() + b.size() - both.size());
}

/// `text` with about a share of its words replaced by a word that is nowhere else.
std::string edited(const std::string& text, double share, uint64_t seed) {
  const Philox random(seed, 99);
  std::string out;
  uint64_t i = 0;
  for (const std::string& word : words_of(text)) {
    out += (random.uniform(i) < share ? fmt::format("new{}", i) : word) + " ";
    ++i;
  }
  return out;
}

DuplicateOptions near_options() {
  DuplicateOptions options;
  options.kind = Duplicates::kNear;
  return options;
}

// Each value of two signatures agrees with probability s, so the mean error over n pairs of v
// values is below 6 standard deviations.
TEST(Duplicates, SignaturesEstimateTheJaccardSimilarity) {
  const DocumentHasher hasher(near_options());
  constexpr int64_t kPairs = 400;
  double difference = 0, variance = 0;
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    const auto p = static_cast<uint64_t>(pair);
    const std::string a = test::random_words(11, p, 150);
    const std::string b = edited(a, 0.001 * static_cast<double>(pair % 60), p);
    const double s = jaccard(grams_of(a, 5), grams_of(b, 5));
    const double estimate = estimated_similarity(hasher.key(a).signature, hasher.key(b).signature);
    difference += estimate - s;
    variance += s * (1 - s) / 128;
    // One pair: 6 deviations, and half a value where the similarity is close to 1.
    const auto one = test::statistical(6 * std::sqrt(s * (1 - s) / 128) + 1.0 / 128, 11, 128);
    EXPECT_TRUE(test::within(std::vector{estimate}, std::vector{s}, one)) << pair;
  }
  const auto mean = test::statistical(6 * std::sqrt(variance) / kPairs, 11, kPairs);
  EXPECT_TRUE(test::within(std::vector{difference / kPairs}, std::vector{0.0}, mean));
}

// Every document is compared by the definition with those kept before it. What is far above the
// threshold must go, what is far below must stay.
TEST(Duplicates, FindsWhatTheDefinitionFinds) {
  const DuplicateOptions options = near_options();
  const DocumentHasher hasher(options);
  DuplicateIndex index(options);
  std::vector<std::vector<uint64_t>> kept;
  int64_t clear_duplicates = 0, found = 0, clearly_new = 0, wrong = 0;
  for (uint64_t d = 0; d < 600; ++d) {
    const std::string original = test::random_words(12, d % 200, 160);
    const std::string text =
        d < 200 ? original : edited(original, 0.0006 * static_cast<double>(d % 97), d);
    double most = 0;
    const auto grams = grams_of(text, 5);
    for (const auto& other : kept) most = std::max(most, jaccard(grams, other));
    const bool out = index.add(hasher.key(text)) != Duplicates::kKeep;
    if (!out) kept.push_back(grams);
    if (most >= 0.9) {
      ++clear_duplicates;
      found += out;
    } else if (most <= 0.65) {
      ++clearly_new;
      wrong += out;
    }
  }
  ASSERT_GT(clear_duplicates, 80);
  ASSERT_GT(clearly_new, 250);
  // At 0.9 the banding misses 1 − (1 − 0.9⁸)¹⁶ < 1.2e-4 of them and a signature of 128 values
  // falls below 0.8 for less than 3e-4; at 0.65 one reaches 0.8 with a probability below 3e-4.
  EXPECT_GE(found, clear_duplicates - 2) << "statistical: seed 12, n " << clear_duplicates;
  EXPECT_LE(wrong, 2) << "statistical: seed 12, n " << clearly_new;
}

TEST(Duplicates, ExactMeansTheSameBytes) {
  DuplicateOptions options;
  options.kind = Duplicates::kExact;
  const DocumentHasher hasher(options);
  DuplicateIndex index(options);
  std::set<std::string> seen;
  for (uint64_t i = 0; i < 5000; ++i) {
    const std::string text = std::to_string(i * i % 1301);
    const bool known = !seen.insert(text).second;
    EXPECT_EQ(index.add(hasher.key(text)), known ? Duplicates::kExact : Duplicates::kKeep);
  }
  EXPECT_EQ(index.documents(), static_cast<int64_t>(seen.size()));
  EXPECT_EQ(index.add(hasher.key("Some words")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("some words")), Duplicates::kKeep);
}

TEST(Duplicates, ShortAndOddDocuments) {
  const DuplicateOptions options = near_options();
  const DocumentHasher hasher(options);
  DuplicateIndex index(options);
  EXPECT_EQ(index.add(hasher.key("two words")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("Two, words!")), Duplicates::kNear);
  EXPECT_EQ(index.add(hasher.key("words two")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("...")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("!?")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("...")), Duplicates::kExact);
  EXPECT_EQ(index.add(hasher.key("\xff\xfe")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("日本語")), Duplicates::kKeep);
  EXPECT_EQ(index.add(hasher.key("日本語。")), Duplicates::kKeep);  // one word, another one
}

TEST(Duplicates, AnIndexFilledAgainAnswersTheSame) {
  const DuplicateOptions options = near_options();
  const DocumentHasher hasher(options);
  DuplicateIndex index(options), again(options);
  for (uint64_t d = 0; d < 300; ++d) {
    const auto text = [](uint64_t n) {
      return edited(test::random_words(13, n % 90, 80), 0.01, n / 90);
    };
    const DocumentKey key = hasher.key(text(d));
    const Duplicates verdict = index.add(key);
    if (d < 150) {
      if (verdict == Duplicates::kKeep) again.keep(key);
    } else {
      EXPECT_EQ(again.add(key), verdict) << d;
    }
  }
}

}  // namespace
}  // namespace ashlar
