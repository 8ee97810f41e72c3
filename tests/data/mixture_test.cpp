#include "data/shards/mixture.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/base/error.h"
#include "core/hdf5/hdf5.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::TempDir;

constexpr int64_t kContext = 4;

/// Shards of `tokens` tokens of which each is `mark` or, at the end of a document, EOS.
void write_corpus(const std::filesystem::path& folder, size_t tokens, uint16_t mark) {
  std::filesystem::create_directories(folder);
  std::vector<uint16_t> values(tokens, mark);
  for (size_t i = 9; i < tokens; i += 10) values[i] = 0;
  // The position, so that windows can be told apart.
  for (size_t i = 0; i < tokens; i += 4) values[i] = static_cast<uint16_t>(100 + i);
  H5File file = H5File::create(folder / "a.h5");
  file.write<uint16_t>("data", {static_cast<int64_t>(tokens)}, values);
  file.set_attribute("", "eos_id", int64_t{0});
  file.close();
}

struct Mixed {
  TempDir dir;
  std::vector<std::unique_ptr<ShardSet>> shards;
  std::vector<std::unique_ptr<BatchSource>> sources;

  explicit Mixed(const std::vector<size_t>& tokens, uint64_t seed, const PaddingOptions& pad = {}) {
    for (size_t p = 0; p < tokens.size(); ++p) {
      const auto folder = dir / std::to_string(p);
      write_corpus(folder, tokens[p], static_cast<uint16_t>(p + 1));
      shards.push_back(std::make_unique<ShardSet>(folder));
      sources.push_back(std::make_unique<BatchSource>(*shards.back(), kContext,
                                                      MixtureSource::seed_of(seed, p),
                                                      BatchSource::Order::kShuffled, pad));
    }
  }
  MixtureSource mix(const std::vector<double>& weights, uint64_t seed) const {
    std::vector<MixtureSource::Part> parts;
    for (size_t p = 0; p < sources.size(); ++p) {
      parts.push_back({sources[p].get(), weights[p], "corpus " + std::to_string(p)});
    }
    return {parts, seed};
  }
};

TEST(Mixture, ProportionsAreExactInEveryPeriod) {
  const Mixed m({400, 80, 44}, 5);
  const MixtureSource mix = m.mix({0.7, 0.25, 0.05}, 5);
  EXPECT_EQ(mix.windows(), 100 + 20 + 11);
  std::map<size_t, int64_t> next;
  for (int64_t period = 0; period < 3; ++period) {
    std::map<size_t, std::vector<int64_t>> seen;
    for (int64_t s = 0; s < MixtureSource::kPeriod; ++s) {
      const auto place = mix.place_of(period * MixtureSource::kPeriod + s);
      seen[place.part].push_back(place.sample);
    }
    for (const auto& [part, count] : std::map<size_t, size_t>{{0, 700}, {1, 250}, {2, 50}}) {
      std::vector<int64_t> samples = seen[part];
      ASSERT_EQ(samples.size(), count);
      // Its next samples, each exactly once, in an order that is not theirs.
      EXPECT_FALSE(std::is_sorted(samples.begin(), samples.end()));
      std::sort(samples.begin(), samples.end());
      for (const int64_t sample : samples) EXPECT_EQ(sample, next[part]++);
    }
  }
  for (const int64_t n : {0, 1, 999, 1000, 2345}) {
    int64_t all = 0;
    for (size_t p = 0; p < 3; ++p) all += mix.samples_of(p, n);
    EXPECT_EQ(all, n);
  }
  EXPECT_EQ(mix.samples_of(2, 3000), 150);
}

TEST(Mixture, EveryCorpusRunsThroughItsOwnEpochs) {
  const Mixed m({400, 80}, 5);
  const MixtureSource mix = m.mix({1, 1}, 5);
  // 500 samples of the second corpus in a period are 25 epochs of its 20 windows.
  std::map<int32_t, int64_t> visits;
  for (int64_t s = 0; s < MixtureSource::kPeriod; ++s) {
    if (mix.place_of(s).part == 1) ++visits[mix.batch(s, 1).targets[0]];
  }
  ASSERT_EQ(visits.size(), 20u);
  for (const auto& [window, count] : visits) EXPECT_EQ(count, 25) << window;
}

TEST(Mixture, RowsDoNotDependOnBatches) {
  for (const bool padded : {false, true}) {
    const PaddingOptions pad = padded ? PaddingOptions{2, true} : PaddingOptions{};
    const Mixed m({400, 80, 44}, 5, pad);
    const MixtureSource mix = m.mix({3, 2, 1}, 5), again = m.mix({0.6, 0.4, 0.2}, 5);
    const Batch all = mix.batch(990, 32);
    EXPECT_EQ(all.rows, 32);
    EXPECT_EQ(all.cursor, 990);
    EXPECT_EQ(again.batch(990, 32).tokens, all.tokens);
    EXPECT_NE(m.mix({3, 2, 1}, 6).batch(990, 32).tokens, all.tokens);
    for (int64_t rank = 0; rank < 3; ++rank) {  // dealt out to three ranks
      std::vector<int64_t> samples;
      for (int64_t s = 990 + rank; s < 1022; s += 3) samples.push_back(s);
      const Batch own = mix.batch(samples);
      for (size_t r = 0; r < samples.size(); ++r) {
        const auto from = static_cast<std::ptrdiff_t>(kContext * (samples[r] - 990));
        const auto to = static_cast<std::ptrdiff_t>(kContext * static_cast<int64_t>(r));
        const auto same = [&](const auto& a, const auto& b) {
          return std::equal(a.begin() + to, a.begin() + to + kContext, b.begin() + from);
        };
        EXPECT_TRUE(same(own.tokens, all.tokens));
        EXPECT_TRUE(same(own.targets, all.targets));
        EXPECT_TRUE(same(own.loss_weight, all.loss_weight));
        EXPECT_TRUE(same(own.segment_ids, all.segment_ids));
        EXPECT_TRUE(same(own.positions, all.positions));
      }
    }
  }
}

TEST(Mixture, AWeightTooSmallIsRefused) {
  const Mixed m({400, 80}, 5);
  expect_error(ErrorCode::kRequest, {"weight 0.0001", "corpus 1", "one sample in 1000"}, [&] {
    m.mix({1, 0.0001}, 5);
  });
}

}  // namespace
}  // namespace ashlar
