#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "core/base/rng.h"
#include "engine/cache/arena.h"
#include "engine/cache/sequence_cache.h"
#include "tests/engine/cache_rows.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

TEST(Arena, PagesAreDisjointAlignedAndReturned) {
  const auto memory = make_host_memory();
  {
    Arena arena(*memory);
    const Philox rng(1);
    std::map<std::byte*, std::pair<PageId, int64_t>> live;
    int64_t bytes = 0;
    for (uint64_t i = 0; i < 5000; ++i) {
      if (rng.below(2 * i, 3) != 0 || live.empty()) {
        const int64_t size = int64_t{40} << rng.below(2 * i + 1, 6);
        const PageId page = arena.allocate(size);
        std::byte* at = arena.writable(page);
        ASSERT_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0u);
        const auto next = live.lower_bound(at);
        if (next != live.end()) {
          ASSERT_LE(at + size, next->first);
        }
        if (next != live.begin()) {
          const auto before = std::prev(next);
          ASSERT_LE(before->first + before->second.second, at);
        }
        live[at] = {page, size};
        bytes += size;
      } else {
        auto victim =
            std::next(live.begin(), static_cast<std::ptrdiff_t>(rng.below(2 * i + 1, live.size())));
        arena.release(victim->second.first);
        bytes -= victim->second.second;
        live.erase(victim);
      }
      ASSERT_EQ(arena.page_bytes_in_use(), bytes);
      ASSERT_EQ(arena.pages_in_use(), static_cast<int64_t>(live.size()));
      ASSERT_EQ(memory->bytes_in_use(), arena.chunk_bytes_in_use());
    }
    for (auto& [at, page] : live) arena.release(page.first);
    EXPECT_EQ(memory->bytes_in_use(), 0);
  }
}

TEST(Arena, ABudgetIsKept) {
  const auto memory = make_host_memory(Arena::kChunkBytes);
  Arena arena(*memory);
  arena.allocate(100);
  test::expect_error(ErrorCode::kResource, {"memory budget", "exhausted"},
                     [&] { arena.allocate(200); });
}

// Drops rows at random; whatever stays must be byte for byte what was appended at its position.
class RandomDrops final : public Policy {
 public:
  RandomDrops(uint64_t seed, bool per_head) : Policy({.per_head = per_head}), rng_(seed) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const size_t rows = lanes[i].positions.size();
      for (size_t s = 0; s < rows; ++s) {
        if (rows > 5 && rng_.below(counter_++, 6) == 0)
          edits[i].drop.push_back(static_cast<int64_t>(s));
      }
    }
  }

 private:
  Philox rng_;
  mutable uint64_t counter_ = 0;
};

float element(int64_t position, int64_t head, int64_t i, bool value) {
  return static_cast<float>(position * 1000 + head * 100 + i) + (value ? 0.5f : 0.0f);
}

void expect_rows(const SequenceCache& cache, const KvGroup& group, int64_t head) {
  const CacheImage image = cache.image();
  const auto& lanes = image.groups[static_cast<size_t>(group.id)].lanes;
  const int64_t width = group.heads / static_cast<int64_t>(lanes.size());
  const QueryTile all = test::everything(lanes[static_cast<size_t>(head / width)]);
  const KvHeadView view = cache.view(group.id, head, all);
  const auto positions = cache.positions(group.id, head);
  ASSERT_EQ(all.visible(), static_cast<int64_t>(positions.size()));
  for (size_t s = 0; s < positions.size(); ++s) {
    const std::vector<float> row =
        test::slot_values(view, group, width, head % width, static_cast<int64_t>(s));
    for (int64_t i = 0; i < group.key_dim + group.value_dim; ++i) {
      const bool value = i >= group.key_dim;
      ASSERT_EQ(row[static_cast<size_t>(i)],
                element(positions[s], head, value ? i - group.key_dim : i, value))
          << "slot " << s << " position " << positions[s];
    }
  }
}

TEST(SequenceCache, RowsSurviveRandomAppendsAndDrops) {
  const ModelSpec spec = test::small_decoder("cla2");
  const auto groups = kv_groups(spec);
  const auto memory = make_host_memory();
  for (bool per_head : {false, true}) {
    Arena arena(*memory);
    const Philox rng(per_head ? 5 : 6);
    uint64_t draw = 0;
    for (int round = 0; round < 20; ++round) {
      SequenceCache cache(groups, {CodecKind::kF32, CodecKind::kF32},
                          std::make_shared<RandomDrops>(round, per_head), arena);
      SequenceCache* const caches[] = {&cache};
      for (int step = 0; step < 60; ++step) {
        const bool acts = rng.below(draw++, 3) != 0;
        const auto rows = acts && step > 0 ? 1 : static_cast<int64_t>(1 + rng.below(draw++, 40));
        cache.set_acting(acts);
        for (const KvGroup& g : groups) {
          const int64_t first = cache.position(g.id);
          std::vector<float> keys, values;
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t h = 0; h < g.heads; ++h) {
              for (int64_t i = 0; i < g.key_dim; ++i)
                keys.push_back(element(first + r, h, i, false));
              for (int64_t i = 0; i < g.value_dim; ++i)
                values.push_back(element(first + r, h, i, true));
            }
          }
          cache.append(g.id, keys.data(), values.data(), rows);
          SequenceCache::close(caches, g.id);
          ASSERT_EQ(cache.position(g.id), first + rows);
        }
      }
      for (const KvGroup& g : groups) {
        for (int64_t h = 0; h < g.heads; ++h) ASSERT_NO_FATAL_FAILURE(expect_rows(cache, g, h));
      }
    }
    EXPECT_EQ(arena.pages_in_use(), 0);
    EXPECT_EQ(arena.chunk_bytes_in_use(), 0);
  }
}

// H2O that keeps every score it was shown.
class Recording final : public Policy {
 public:
  Recording(std::span<const KvGroup> groups, const PolicyNeeds& needs, int64_t budget = 21)
      : Policy(needs), h2o_(make_policy({"h2o", budget, 2, 3}, groups)) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (const LaneView& lane : lanes) {
      seen.insert(seen.end(), lane.scores.begin(), lane.scores.end());
      seen.insert(seen.end(), lane.counts.begin(), lane.counts.end());
      seen.push_back(static_cast<float>(lane.newest));
    }
    h2o_->select(lanes, edits);
  }
  mutable std::vector<float> seen;

 private:
  std::unique_ptr<Policy> h2o_;
};

// Appends rows to every group and plays every reader: attention adds a number that depends on the
// query's position, the row's slot and the reader.
float attention(int64_t position, int64_t slot, int64_t head, size_t reader) {
  const auto draw = static_cast<uint64_t>(position * 7919 + slot * 31 + head);
  return static_cast<float>(Philox(reader).uniform(draw)) / 7.0f;
}

/// As it is kept.
double kept(int64_t position, int64_t slot, int64_t head, size_t reader) {
  const double p = static_cast<double>(attention(position, slot, head, reader));
  return std::ldexp(std::nearbyint(std::ldexp(p, kScoreBits)), -kScoreBits);
}

void append_rows(SequenceCache& cache, std::span<const KvGroup> groups, int64_t first,
                 int64_t rows) {
  SequenceCache* const caches[] = {&cache};
  for (const KvGroup& g : groups) {
    std::vector<float> keys, values;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < g.heads; ++h) {
        for (int64_t i = 0; i < g.key_dim; ++i) keys.push_back(element(first + r, h, i, false));
        for (int64_t i = 0; i < g.value_dim; ++i) values.push_back(element(first + r, h, i, true));
      }
    }
    cache.append(g.id, keys.data(), values.data(), rows);
    std::vector<QueryTile> tiles;
    for (size_t reader = 0; reader < g.readers.size(); ++reader) {
      for (int64_t h = 0; h < g.heads; ++h) {
        cache.query_tiles(g.id, h, tiles);
        int64_t next = 0;
        for (const QueryTile& tile : tiles) {
          ASSERT_EQ(tile.row, next);
          next += tile.rows;
          const ScoreRows scores = cache.scores(g.id, h, tile);
          for (int64_t r = scores.from; r < tile.rows; ++r) {
            for (int64_t s = 0; s < tile.visible() + r; ++s) {
              const float p = attention(first + tile.row + r, s, h, reader);
              if (scores.sums.low != nullptr) add_score(scores.sums, s, p);
              if (scores.counts != nullptr && p < 0.05f) scores.counts[s] += 1;
            }
          }
        }
        ASSERT_EQ(next, rows);
      }
    }
    SequenceCache::close(caches, g.id);
  }
}

// The newest rows of a group with a window stay as they came, in the tiles that they were in.
TEST(SequenceCache, WindowsReleaseWholeTilesInFront) {
  const auto memory = make_host_memory();
  for (const int64_t window : {1, 17, 64, 65, 200}) {
    Arena arena(*memory);
    auto groups = kv_groups(test::small_decoder("yoco"));
    for (KvGroup& g : groups) g.window = window;
    const KvGroup& g = groups[0];
    SequenceCache cache(groups, {CodecKind::kF32, CodecKind::kF32}, nullptr, arena);
    const Philox rng(static_cast<uint64_t>(window));
    for (uint64_t step = 0; step < 60; ++step) {
      const int64_t first = cache.position(0), rows = static_cast<int64_t>(1 + rng.below(step, 40));
      ASSERT_NO_FATAL_FAILURE(append_rows(cache, groups, first, rows));
      const int64_t end = first + rows, front = std::max<int64_t>(0, end + 1 - window) / 64 * 64;
      const auto positions = cache.positions(0, 0);
      ASSERT_EQ(static_cast<int64_t>(positions.size()), end - front);
      for (size_t s = 0; s < positions.size(); ++s)
        ASSERT_EQ(positions[s], front + static_cast<int64_t>(s));
      for (int64_t h = 0; h < g.heads; ++h) ASSERT_NO_FATAL_FAILURE(expect_rows(cache, g, h));
      ASSERT_EQ(cache.bytes().pages, arena.page_bytes_in_use());
    }
    EXPECT_LE(cache.rows(0, 0), window + 62);
  }
}

// Rows that are never committed leave nothing behind: pages, bytes, positions and scores equal
// those of a cache that never saw them, bit for bit.
// Rounds alternate between plain groups, groups of which some have a window, and latents with one.
TEST(SequenceCache, OnlyCommittedRowsCount) {
  const ModelSpec specs[] = {test::small_decoder("cla2"), test::small_windowed(),
                             test::small_latent(", window: 70")};
  const auto memory = make_host_memory();
  for (uint64_t round = 0; round < 18; ++round) {
    const auto groups = kv_groups(specs[round % 3]);
    Arena arena(*memory);
    const Philox rng(100 + round);
    uint64_t draw = 0;
    const auto pick = [&](uint64_t below) {
      return static_cast<int64_t>(rng.below(draw++, below));
    };
    CacheOptions options{CodecKind::kQ4, CodecKind::kQ8};
    if (round % 4 > 1) options.residual = 20, options.precise_sinks = 3;
    constexpr ScoreReducer kReducers[] = {ScoreReducer::kSum, ScoreReducer::kLast,
                                          ScoreReducer::kSumAndCount};
    const ScoreReducer reducer = kReducers[round / 3 % 3];
    const PolicyNeeds needs{.reducer = reducer, .per_head = true};
    const auto held_policy = std::make_shared<Recording>(groups, needs);
    const auto plain_policy = std::make_shared<Recording>(groups, needs);
    SequenceCache held(groups, options, held_policy, arena);
    SequenceCache plain(groups, options, plain_policy, arena);
    held.set_holding(true);
    SequenceCache* const caches[] = {&held};
    append_rows(held, groups, 0, 1);
    const int64_t one[] = {1};
    SequenceCache::commit(caches, one);
    append_rows(plain, groups, 0, 1);
    for (int step = 0; step < 40; ++step) {
      SCOPED_TRACE(step);
      const bool acts = pick(3) == 0;
      held.set_acting(acts);
      plain.set_acting(acts);
      const int64_t first = plain.position(0);
      int64_t rows = 0;
      for (int64_t part = acts ? 1 : 1 + pick(3); part > 0; --part) {
        const int64_t more = acts ? 1 : 1 + pick(36);
        ASSERT_NO_FATAL_FAILURE(append_rows(held, groups, first + rows, more));
        rows += more;
        if (pick(4) == 0) held.truncate_provisional(rows = pick(static_cast<uint64_t>(rows + 1)));
      }
      ASSERT_EQ(held.position(0), first);
      const int64_t kept[] = {pick(static_cast<uint64_t>(rows + 1))};
      SequenceCache::commit(caches, kept);
      for (int64_t r = 0; r < kept[0];) {
        const int64_t more = acts ? 1 : 1 + pick(static_cast<uint64_t>(kept[0] - r));
        ASSERT_NO_FATAL_FAILURE(append_rows(plain, groups, first + r, more));
        r += more;
      }
      ASSERT_EQ(held_policy->seen, plain_policy->seen);
      ASSERT_EQ(held.bytes().pages, plain.bytes().pages);
      ASSERT_TRUE(held.image() == plain.image());
    }
    EXPECT_EQ(plain_policy->seen.size() > 0, round % 3 != 2);
    EXPECT_GT(plain.position(0), 100);
    if (round % 3 == 1) {
      EXPECT_LT(plain.rows(0, 0), plain.position(0));
    }
  }
}

// However the rows came in, the scores are those of the newest one, readers summed.
TEST(SequenceCache, LastScoresAreTheNewestRows) {
  const auto groups = kv_groups(test::small_decoder("cla2"));
  const auto memory = make_host_memory();
  Arena arena(*memory);
  const auto policy = std::make_shared<Recording>(
      groups, PolicyNeeds{.reducer = ScoreReducer::kLast, .per_head = true}, 1000);
  SequenceCache cache(groups, {CodecKind::kF32, CodecKind::kF32}, policy, arena);
  int64_t first = 0;
  for (int64_t rows : {1, 5, 30, 2, 16, 1}) {
    cache.set_acting(false);
    if (rows > 1) append_rows(cache, groups, first, rows - 1);
    first += rows - 1;
    cache.set_acting(true);
    policy->seen.clear();
    append_rows(cache, groups, first++, 1);
    std::vector<float> expected;
    for (const KvGroup& g : groups) {
      for (int64_t h = 0; h < g.heads; ++h) {
        for (int64_t s = 0; s < first; ++s) {
          double sum = 0;
          for (size_t r = 0; r < g.readers.size(); ++r) sum += kept(first - 1, s, h, r);
          expected.push_back(static_cast<float>(sum));
        }
        expected.push_back(static_cast<float>(first - 1));
      }
    }
    ASSERT_EQ(policy->seen, expected);
  }
  // The last row of several is alone too.
  policy->seen.clear();
  append_rows(cache, groups, first, 20);
  const double one = kept(first + 19, 0, 0, 0) + kept(first + 19, 0, 0, 1);
  EXPECT_EQ(policy->seen[0], static_cast<float>(one));
}

// Compares the features it is shown with those of the rows as attention would read them.
class Watching final : public Policy {
 public:
  Watching(const PolicyNeeds& needs, std::span<const KvGroup> groups)
      : Policy(needs), groups_(groups) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      if (lane.rows() > 40) edits[i].drop = {1, 7, 38};
      if (lane.rows() <= need_of(needs().features_above, lane.place)) {
        EXPECT_TRUE(lane.key_cosines.empty() && lane.value_norms.empty());
        continue;
      }
      for (int64_t h = 0; h < lane.heads; ++h) check(lane, lane.head + h);
    }
  }
  const SequenceCache* cache = nullptr;
  mutable int64_t checked = 0;

 private:
  void check(const LaneView& lane, int64_t head) const {
    const KvGroup& g = groups_[static_cast<size_t>(lane.group)];
    const auto lanes = cache->lanes();
    const auto own = std::find_if(lanes.begin(), lanes.end(), [&](const Lane* l) {
      return l->positions().data() == lane.positions.data();
    });
    const KvHeadView view = (*own)->view(head, (*own)->everything());
    std::vector<std::vector<double>> keys, values;
    std::vector<double> mean(static_cast<size_t>(g.key_dim));
    const auto norm = [](const std::vector<double>& x) {
      return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    };
    for (int64_t s = 0; s < lane.rows(); ++s) {
      const auto row = test::slot_values(view, g, lane.heads, head - lane.head, s);
      keys.emplace_back(row.begin(), row.begin() + g.key_dim);
      const auto value = g.value_in_key ? row.begin() : row.begin() + g.key_dim;
      values.emplace_back(value, value + g.value_dim);
      for (size_t j = 0; j < mean.size(); ++j) mean[j] += keys.back()[j] / norm(keys.back());
    }
    for (int64_t s = 0; s < lane.rows(); ++s) {
      const auto at = static_cast<size_t>((head - lane.head) * lane.rows() + s);
      const auto& key = keys[static_cast<size_t>(s)];
      const double dot = std::inner_product(key.begin(), key.end(), mean.begin(), 0.0);
      EXPECT_NEAR(lane.key_cosines[at], dot / norm(key) / norm(mean), 1e-5);
      EXPECT_NEAR(lane.value_norms[at], norm(values[static_cast<size_t>(s)]), 1e-5);
    }
    ++checked;
  }

  std::span<const KvGroup> groups_;
};

// Features are of the rows as attention reads them, whatever their form, of each head of a lane.
TEST(SequenceCache, FeaturesAreOfTheRowsAsTheyAreHeld) {
  const auto memory = make_host_memory();
  for (const bool per_head : {false, true}) {
    for (const ModelSpec& spec : {test::small_decoder("cla2"), test::small_latent()}) {
      const auto groups = kv_groups(spec);
      Arena arena(*memory);
      PolicyNeeds needs;
      needs.per_head = per_head;
      needs.key_cosines = needs.value_norms = true;
      needs.features_above.assign(groups.size(), 0);
      needs.features_above[1] = 1000;
      const auto policy = std::make_shared<Watching>(needs, groups);
      CacheOptions options{CodecKind::kQ4, CodecKind::kQ8};
      options.precise_sinks = 3;
      options.residual = 20;
      SequenceCache cache(groups, options, policy, arena);
      policy->cache = &cache;
      SequenceCache* const caches[] = {&cache};
      const Philox rng(8);
      for (int64_t step = 0; step < 40; ++step) {
        const int64_t rows = step == 0 ? 70 : 1;
        cache.set_acting(true);
        for (const KvGroup& g : groups) {
          std::vector<float> keys(static_cast<size_t>(rows * g.heads * g.key_dim));
          std::vector<float> values(static_cast<size_t>(rows * g.heads * g.value_dim));
          const auto salt = static_cast<uint64_t>(step * 100000 + g.id * 10000);
          for (size_t i = 0; i < keys.size(); ++i)
            keys[i] = static_cast<float>(rng.normal(salt + i));
          for (size_t i = 0; i < values.size(); ++i)
            values[i] = static_cast<float>(rng.normal(salt + i + 5000));
          cache.append(g.id, keys.data(), values.data(), rows);
          SequenceCache::close(caches, g.id);
        }
      }
      EXPECT_GE(policy->checked, 40);
    }
  }
}

TEST(Policy, UnknownNamesAndImpossibleBudgetsAreRefused) {
  const auto groups = kv_groups(test::small_decoder());
  const auto refuses = [&](const PolicyOptions& options,
                           const std::vector<std::string>& fragments) {
    test::expect_error(ErrorCode::kRequest, fragments, [&] { make_policy(options, groups); });
  };
  refuses({"lru", 8, 1, 1}, {"'lru' is not one of none, streaming, h2o"});
  refuses({"h2o", 0, 1, 1}, {"positive --kv-budget"});
  refuses({"h2o", 5, 4, 2}, {"budget of 5 rows is smaller than sink + recent = 4 + 2"});
  refuses({"streaming", 4, 4, -1}, {"smaller than sink + recent = 4 + 1"});
  refuses({"h2o", 8, INT64_MAX, -1}, {"smaller than sink + recent"});
  EXPECT_EQ(make_policy({"none", 0, 0, 0}, groups), nullptr);
}

TEST(Policy, H2oDropsTheLightestUnprotectedRow) {
  const auto policy = make_policy({"h2o", 5, 1, 2}, kv_groups(test::small_decoder()));
  const std::vector<int32_t> positions = {0, 4, 2, 3, 1, 5, 6};
  const std::vector<float> scores = {0.f, 5.f, 3.f, 1.f, 1.f, 0.f, 0.f};
  const LaneView view{0, 6, positions, scores, {}};
  LaneEdit edit;
  policy->select(std::span(&view, 1), std::span(&edit, 1));
  EXPECT_EQ(edit.drop, (std::vector<int64_t>{3, 4}));  // positions 3 and 1, equally light
}

}  // namespace
}  // namespace ashlar
