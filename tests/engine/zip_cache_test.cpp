// ZipCache in a SequenceCache beside a slow state machine: which rows wait, which query rows rank
// them, what becomes a segment, and what attention then reads.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "engine/cache/sequence_cache.h"
#include "tests/engine/cache_rows.h"
#include "tests/kernels/zip_support.h"
#include "tests/support/files.h"

namespace ashlar::test {
namespace {

constexpr int64_t kPage = 4;

CacheOptions zip_options(const std::string& text, int64_t page_rows = kPage) {
  CacheOptions options;
  options.page_rows = page_rows;
  options.zip = read_zip(text, 1);
  return options;
}

std::vector<KvGroup> two_groups() {
  std::vector<KvGroup> groups(2);
  groups[0].id = 0;
  groups[0].heads = 2;
  groups[0].key_dim = 6;
  groups[0].value_dim = 5;
  groups[0].readers = {0, 1};
  groups[1].id = 1;
  groups[1].heads = 3;
  groups[1].key_dim = groups[1].value_dim = 8;
  groups[1].readers = {2};
  return groups;
}

/// A probability that the query row gives a row, in steps that add up exactly.
float attention_of(int64_t query, int64_t row, int64_t head, int64_t reader) {
  return static_cast<float>((query * 13 + row * row * 7 + head * 5 + reader * 3) % 64) / 64.0f;
}

float number_of(int64_t group, int64_t position, int64_t i) {
  const Philox rng(static_cast<uint64_t>(group) + 3);
  const float x = static_cast<float>(rng.normal(static_cast<uint64_t>(position * 64 + i)));
  return x * std::exp2f(static_cast<float>(i % 4));
}

/// One head of one group as the description has it: everything by position.
class SlowHead {
 public:
  SlowHead(const KvGroup& group, int64_t head, const ZipOptions& options)
      : group_(group), head_(head), options_(options) {}

  /// Rows [position, position + rows) came in one step; the prompt's end, or −1 for a decoded row.
  void step(int64_t rows, int64_t prompt_end, bool acts) {
    const int64_t first = position_, end = position_ + rows;
    int64_t begin = frozen(), last = frozen() + options_.every;
    if (prompt_end >= 0) begin = acted_, last = prompt_end;
    if (prompt_end >= 0 && last - frozen() < options_.every) begin = last = 0;
    if (begin != begin_ || last != end_) {
      begin_ = begin, end_ = last;
      scores_.clear(), seen_.clear();
    }
    if (last > 0) {
      const ProbeRows probes(options_, begin, last);
      for (int64_t query = first; query < end; ++query) {
        if (!probes.contains(query)) continue;
        for (int64_t row = frozen(); row <= query; ++row) {
          for (size_t r = 0; r < group_.readers.size(); ++r) {
            scores_[row] += attention_of(query, row, head_, static_cast<int64_t>(r));
          }
          ++seen_[row];
        }
      }
    }
    position_ = end;
    if (!acts) return;
    acted_ = end;
    if (position_ - frozen() >= options_.every) freeze();
  }
  int64_t frozen() const { return std::ssize(order_); }
  /// Positions by slot, as far as segments go.
  const std::vector<int64_t>& order() const { return order_; }
  const std::vector<float>& decoded() const { return decoded_; }
  const std::vector<std::pair<int64_t, int64_t>>& segments() const { return segments_; }

 private:
  void freeze() {
    const int64_t first = frozen(), n = position_ - first;
    std::vector<int64_t> rows;
    for (int64_t row = first; row < position_; ++row) rows.push_back(row);
    const auto saliency = [&](int64_t row) {
      return seen_[row] == 0 ? 1e30 : scores_[row] / static_cast<double>(seen_[row]);
    };
    std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
      return saliency(a) != saliency(b) ? saliency(a) > saliency(b) : a > b;
    });
    const auto salient =
        static_cast<int64_t>(std::floor(options_.salient * static_cast<double>(n) + 0.5));
    std::sort(rows.begin(), rows.begin() + salient);
    std::sort(rows.begin() + salient, rows.end());
    std::vector<float> keys, values;
    // Rows of complete pages were fp16 before, the others raw.
    const int64_t complete = position_ / page_rows * page_rows;
    for (const int64_t row : rows) {
      const auto stored = [&](int64_t i) {
        const float x = number_of(group_.id, row, head_ * 16 + i);
        return row < complete ? half_to_float(float_to_half(x)) : x;
      };
      for (int64_t i = 0; i < group_.key_dim; ++i) keys.push_back(stored(i));
      for (int64_t i = 0; i < group_.value_dim; ++i) values.push_back(stored(8 + i));
    }
    const ZipShape shape{group_.key_dim, group_.value_dim};
    ZipPages pages(shape, 16);
    pages.append(keys.data(), values.data(), n, salient);
    keys.clear(), values.clear();
    pages.decode(0, keys, values);
    for (int64_t row = 0; row < n; ++row) {
      const auto k = keys.begin() + row * group_.key_dim,
                 v = values.begin() + row * group_.value_dim;
      decoded_.insert(decoded_.end(), k, k + group_.key_dim);
      decoded_.insert(decoded_.end(), v, v + group_.value_dim);
    }
    order_.insert(order_.end(), rows.begin(), rows.end());
    segments_.emplace_back(n, salient);
    begin_ = end_ = 0;
    scores_.clear(), seen_.clear();
  }

  KvGroup group_;
  int64_t head_;
  ZipOptions options_;
  int64_t position_ = 0, acted_ = 0, begin_ = 0, end_ = 0;
  std::map<int64_t, double> scores_;
  std::map<int64_t, int64_t> seen_;
  std::vector<int64_t> order_;
  std::vector<float> decoded_;
  std::vector<std::pair<int64_t, int64_t>> segments_;

 public:
  int64_t page_rows = kPage;
};

/// Feeds a cache and a slow one.
class Driver {
 public:
  Driver(const std::vector<KvGroup>& groups, const CacheOptions& options, Arena& arena)
      : groups_(groups),
        options_(options),
        cache_(std::make_unique<SequenceCache>(groups_, options, nullptr, arena)) {
    for (const KvGroup& group : groups_) {
      auto& heads = slow_.emplace_back();
      for (int64_t h = 0; h < group.heads; ++h) {
        heads.emplace_back(group, h, *options.zip);
        heads.back().page_rows = options.page_rows;
      }
    }
  }
  Driver(const Driver& other)
      : groups_(other.groups_),
        options_(other.options_),
        cache_(other.cache_->fork()),
        slow_(other.slow_),
        position_(other.position_),
        acted_(other.acted_) {}

  SequenceCache& cache() { return *cache_; }
  int64_t position() const { return position_; }

  void step(int64_t rows, bool acts, int64_t follow = 0) {
    const bool decoded = acts && acted_ > 0 && acted_ == position_ && rows == 1;
    const int64_t end = position_ + rows + follow;
    cache_->set_acting(acts);
    cache_->prepare(rows, rows);
    cache_->set_prompt_end(end);
    for (const KvGroup& group : groups_) {
      std::vector<float> keys, values;
      for (int64_t p = position_; p < position_ + rows; ++p) {
        for (int64_t h = 0; h < group.heads; ++h) {
          for (int64_t i = 0; i < group.key_dim; ++i) {
            keys.push_back(number_of(group.id, p, h * 16 + i));
          }
          for (int64_t i = 0; i < group.value_dim; ++i) {
            values.push_back(number_of(group.id, p, h * 16 + 8 + i));
          }
        }
      }
      cache_->append(group.id, keys.data(), values.data(), rows);
      for (size_t r = 0; r < group.readers.size(); ++r) attend(group, static_cast<int64_t>(r));
      SequenceCache* const caches[] = {cache_.get()};
      SequenceCache::close(caches, group.id);
      for (SlowHead& head : slow_[static_cast<size_t>(group.id)]) {
        head.step(rows, decoded ? -1 : end, acts);
      }
    }
    cache_->release_reserve();
    ASSERT_EQ(cache_->unplanned_pages(), 0);
    position_ += rows;
    if (acts) acted_ = position_;
    ASSERT_NO_FATAL_FAILURE(check());
  }

  /// Saves; another cache takes it up.
  void reload(Arena& arena) {
    const CacheImage image = cache_->image();
    auto other = std::make_unique<SequenceCache>(groups_, options_, nullptr, arena);
    other->load(image, "image");
    ASSERT_EQ(other->image(), image);
    ASSERT_EQ(other->bytes().pages, cache_->bytes().pages);
    cache_ = std::move(other);
    ASSERT_NO_FATAL_FAILURE(check());
  }

  /// Everything as the slow cache has it.
  void check() {
    const std::vector<const Lane*> lanes = cache_->lanes();
    size_t index = 0;
    int64_t pages = 0;
    for (const KvGroup& group : groups_) {
      for (int64_t h = 0; h < group.heads; ++h, ++index) {
        const Lane& lane = *lanes[index];
        const SlowHead& slow = slow_[static_cast<size_t>(group.id)][static_cast<size_t>(h)];
        ASSERT_EQ(lane.forms().coded, slow.frozen());
        ASSERT_EQ(lane.rows(), position_);
        const auto positions = lane.positions();
        for (int64_t slot = 0; slot < position_; ++slot) {
          const int64_t want =
              slot < slow.frozen() ? slow.order()[static_cast<size_t>(slot)] : slot;
          ASSERT_EQ(positions[static_cast<size_t>(slot)], want) << "head " << h << " slot " << slot;
        }
        ASSERT_NO_FATAL_FAILURE(check_rows(group, h, lane, slow));
        pages += pages_of(group, lane, slow);
      }
    }
    ASSERT_EQ(cache_->bytes().pages, pages);
  }

 private:
  void attend(const KvGroup& group, int64_t reader) {
    std::vector<QueryTile> tiles;
    for (int64_t h = 0; h < group.heads; ++h) {
      cache_->query_tiles(group.id, h, tiles);
      const auto positions = cache_->positions(group.id, h);
      for (const QueryTile& tile : tiles) {
        const ScoreRows to = cache_->scores(group.id, h, tile);
        ASSERT_LE(cache_->view(group.id, h, tile).all_runs(), tile.runs);
        if (to.sums.low == nullptr) continue;
        ASSERT_EQ(cache_->heads_scored_together(group.id), 1);
        for (int64_t r = to.from; r < tile.rows; ++r) {
          if (to.rows != nullptr && to.rows[r] == 0) continue;
          const int64_t query = position_ + tile.row + r;
          for (int64_t slot = to.slots; slot < tile.visible() + r; ++slot) {
            add_score(to.sums, slot - to.slots,
                      attention_of(query, positions[static_cast<size_t>(slot)], h, reader));
          }
        }
      }
    }
  }
  void check_rows(const KvGroup& group, int64_t head, const Lane& lane, const SlowHead& slow) {
    const KvHeadView view = lane.view(head, lane.everything());
    int64_t slot = 0;
    const size_t width = static_cast<size_t>(group.key_dim + group.value_dim);
    for (int64_t r = 0; r < view.segment_runs; ++r) {
      const KvRun& run = view.segments[r];
      const KvPageShape shape =
          zip_page({group.key_dim, group.value_dim}, run.key_codec, run.page_rows);
      for (int64_t row = 0; row < run.rows; ++row, ++slot) {
        std::vector<float> got(width);
        const int64_t at = run.first + row;
        zip_decode(shape, run.pages[at / run.page_rows], at % run.page_rows, 1, got.data(), 0,
                   got.data() + group.key_dim, 0, {run.key_channels, run.value_channels});
        const auto want = slow.decoded().begin() + slot * static_cast<int64_t>(width);
        ASSERT_TRUE(same_bits(got, std::vector<float>(want, want + static_cast<int64_t>(width))))
            << "slot " << slot;
      }
    }
    ASSERT_EQ(slot, slow.frozen());
    KvHeadView rest = view;
    rest.segment_runs = 0;
    const int64_t complete =
        std::max(slow.frozen(), position_ / options_.page_rows * options_.page_rows);
    for (; slot < position_; ++slot) {
      const auto got = slot_values(rest, group, 1, 0, slot - slow.frozen());
      for (size_t i = 0; i < width; ++i) {
        const auto at = static_cast<int64_t>(i);
        const float x = number_of(group.id, slot,
                                  head * 16 + (at < group.key_dim ? at : 8 + at - group.key_dim));
        ASSERT_EQ(got[i], slot < complete ? half_to_float(float_to_half(x)) : x) << "slot " << slot;
      }
    }
  }
  /// E1's formula with row parameters per head: pages of both lists, parameters of segments, pages
  /// of rows that wait.
  int64_t pages_of(const KvGroup& group, const Lane& lane, const SlowHead& slow) const {
    const int64_t k = group.key_dim, v = group.value_dim, P = options_.page_rows;
    const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    int64_t salient = 0, regular = 0, bytes = 0;
    for (const auto& [rows, four] : slow.segments()) {
      salient += four;
      regular += rows - four;
      bytes += 8 * k + 2 * v;
    }
    bytes += up(salient, P) * P * (up(k, 2) + up(v, 2) + 4);
    bytes += up(regular, P) * P * (up(k, 4) + up(v, 4) + 4);
    bytes += up(lane.forms().late, P) * P * 2 * (k + v);
    const bool raw = lane.rows() > lane.forms().coded + lane.forms().late;
    return bytes + (raw ? P * 4 * (k + v) : 0);
  }

  std::vector<KvGroup> groups_;
  CacheOptions options_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<std::vector<SlowHead>> slow_;
  int64_t position_ = 0, acted_ = 0;
};

class ZipCache : public ::testing::Test {
 protected:
  std::unique_ptr<MemoryProvider> memory_ = make_host_memory(0);
  Arena arena_{*memory_};
};

TEST_F(ZipCache, RandomTextsEqualTheSlowStateMachine) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const Philox rng(seed);
    uint64_t next = 0;
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(rng.below(next++, static_cast<uint64_t>(n)));
    };
    const char* const options[] = {"every=20,probes=0.3,seed=5", "every=7,salient=0.3,probes=1",
                                   "every=33,salient=1,probes=0.1", "every=1,salient=0.5",
                                   "every=12,salient=0,probes=0.5"};
    constexpr int64_t kPages[] = {1, 3, 4, 16, 32};
    SCOPED_TRACE(seed);
    std::vector<std::unique_ptr<Driver>> drivers;
    drivers.push_back(std::make_unique<Driver>(
        two_groups(), zip_options(options[seed % 5], kPages[(seed / 2) % 5]), arena_));
    for (int i = 0; i < 60; ++i) {
      auto& driver = drivers[static_cast<size_t>(below(std::ssize(drivers)))];
      switch (below(8)) {
        case 0:
          ASSERT_NO_FATAL_FAILURE(driver->step(1 + below(60), true));
          break;
        case 1: {  // a prompt in pieces
          int64_t left = 2 + below(80);
          while (left > 0) {
            const int64_t rows = std::min(left, 1 + below(30));
            left -= rows;
            ASSERT_NO_FATAL_FAILURE(driver->step(rows, left == 0, left));
          }
          break;
        }
        case 2:
          ASSERT_NO_FATAL_FAILURE(driver->reload(arena_));
          break;
        case 3:
          driver->cache().swap_out();
          driver->cache().swap_in();
          ASSERT_NO_FATAL_FAILURE(driver->check());
          break;
        case 4:
          if (drivers.size() < 4) drivers.push_back(std::make_unique<Driver>(*driver));
          break;
        case 5:
          if (drivers.size() > 1) drivers.erase(drivers.begin() + below(std::ssize(drivers)));
          break;
        default:
          for (int64_t n = below(30); n > 0; --n) ASSERT_NO_FATAL_FAILURE(driver->step(1, true));
      }
    }
    for (auto& driver : drivers) ASSERT_NO_FATAL_FAILURE(driver->check());
    drivers.clear();
    EXPECT_EQ(arena_.pages_in_use(), 0);
    EXPECT_EQ(memory_->bytes_in_use(), 0);
  }
}

TEST_F(ZipCache, PiecesOfAPromptDoNotShow) {
  const CacheOptions options = zip_options("every=20,probes=0.2,seed=3");
  const auto run = [&](const std::vector<int64_t>& pieces) {
    Driver driver(two_groups(), options, arena_);
    int64_t left = 130;
    for (size_t p = 0; left > 0; ++p) {
      const int64_t rows = p < pieces.size() ? std::min(pieces[p], left) : left;
      left -= rows;
      driver.step(rows, left == 0, left);
    }
    for (int i = 0; i < 25; ++i) driver.step(1, true);
    return driver.cache().image();
  };
  const CacheImage whole = run({130});
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{1, 1, 1}, {64, 64}, {129}, {7, 50, 3, 11, 40}}) {
    EXPECT_EQ(run(pieces), whole);
  }
  CacheOptions other = options;
  other.zip->seed = 4;
  Driver driver(two_groups(), other, arena_);
  driver.step(130, true);
  EXPECT_NE(driver.cache().image().groups[0].lanes[0].positions,
            std::vector<int32_t>(whole.groups[0].lanes[0].positions.begin(),
                                 whole.groups[0].lanes[0].positions.begin() + 130));
}

// Bytes are those of reference E1 at B = 1, but for the rows' parameters, which are each head's own
// (4 bytes instead of 4/H), and ids, which are positions of 4 bytes in the tables:
//   pages: (2 + 2r)·d/4 + 10·d/L + 4 per row and head.
TEST_F(ZipCache, BytesFollowTheFormula) {
  for (const auto& [d, L, r] : {std::tuple<int64_t, int64_t, double>{64, 840, 0.6},
                                {128, 840, 0.6},
                                {64, 800, 0.7},
                                {128, 4000, 0.25}}) {
    std::vector<KvGroup> groups(1);
    groups[0].heads = 2;
    groups[0].key_dim = groups[0].value_dim = d;
    groups[0].readers = {0};
    CacheOptions options = zip_options("salient=" + std::to_string(r), 8);
    SequenceCache cache(groups, options, nullptr, arena_);
    const std::vector<float> rows(static_cast<size_t>(L * 2 * d), 1.0f);
    cache.set_acting(true);
    cache.prepare(L, L);
    cache.append(0, rows.data(), rows.data(), L);
    SequenceCache* const caches[] = {&cache};
    SequenceCache::close(caches, 0);
    cache.release_reserve();
    const auto n = static_cast<double>(L), width = static_cast<double>(d);
    EXPECT_EQ(static_cast<double>(cache.bytes().pages),
              2 * std::round(n * ((2 + 2 * r) * width / 4 + 10 * width / n + 4)))
        << d << " " << L << " " << r;
    EXPECT_EQ(cache.bytes().pages, arena_.page_bytes_in_use());
    EXPECT_EQ(cache.unplanned_pages(), 0);
    // Ids, tables of pages and of the segment's runs.
    EXPECT_LE(cache.bytes().tables, 2 * (4 * (L + 64) + 16 * (L / 8 + 16) + 4096));
    EXPECT_EQ(cache.lanes()[0]->zip()->bits() * 2, cache.bytes().pages * 8);
  }
}

TEST_F(ZipCache, LimitsHoldAndRefusalsLeaveNoTrace) {
  CacheOptions options = zip_options("every=16");
  options.max_bytes = 30000;
  const auto groups = two_groups();
  SequenceCache cache(groups, options, nullptr, arena_);
  cache.set_acting(true);
  const auto before = memory_->bytes_in_use();
  expect_error(ErrorCode::kRequest, {"its limit is 30000"}, [&] { cache.prepare(600, 64); });
  EXPECT_EQ(memory_->bytes_in_use(), before);
  EXPECT_NO_THROW(cache.prepare(16, 16));
  cache.release_reserve();
}

TEST_F(ZipCache, WhatCannotGoIsRefused) {
  const auto groups = two_groups();
  const auto refuses = [&](const char* why, CacheOptions options, std::vector<KvGroup> of,
                           std::shared_ptr<const Policy> policy = nullptr) {
    expect_error(ErrorCode::kRequest, {why}, [&] { SequenceCache(of, options, policy, arena_); });
  };
  const CacheOptions good = zip_options("every=16");
  EXPECT_NO_THROW(SequenceCache(groups, good, nullptr, arena_));
  PolicyOptions h2o{"h2o", 12, 2, 4};
  refuses("never changes", good, groups, make_policy(h2o, groups));
  CacheOptions bad = good;
  bad.precise_sinks = 4;
  refuses("--kv-zip every", bad, groups);
  bad = good;
  bad.value_codec = CodecKind::kQ8;
  refuses("in fp16", bad, groups);
  bad = good;
  bad.zip->salient = 1.5;
  refuses("salient=1.5", bad, groups);
  auto latent = groups;
  latent[1].value_in_key = true;
  refuses("value in the key", good, latent);
  auto windows = groups;
  for (KvGroup& group : windows) group.window = 16;
  refuses("nothing to rank", good, windows);
  SequenceCache cache(groups, good, nullptr, arena_);
  expect_error(ErrorCode::kRequest, {"provisional"}, [&] { cache.set_holding(true); });
}

// A group with a window beside others stays fp16.
TEST_F(ZipCache, WindowsStayFp16) {
  auto groups = two_groups();
  groups[1].window = 10;
  SequenceCache cache(groups, zip_options("every=16"), nullptr, arena_);
  cache.set_acting(true);
  cache.prepare(40, 40);
  for (const KvGroup& group : groups) {
    const std::vector<float> rows(static_cast<size_t>(40 * group.heads * 8), 1.0f);
    cache.append(group.id, rows.data(), rows.data(), 40);
    SequenceCache* const caches[] = {&cache};
    SequenceCache::close(caches, group.id);
  }
  cache.release_reserve();
  const auto lanes = cache.lanes();
  ASSERT_EQ(lanes.size(), 3u);
  EXPECT_EQ(lanes[0]->zip()->rows(), 40);
  EXPECT_EQ(lanes[2]->zip(), nullptr);
  EXPECT_EQ(lanes[2]->heads(), 3);
}

TEST_F(ZipCache, NonsenseIsRefused) {
  const CacheOptions options = zip_options("every=20,probes=0.5");
  Driver driver(two_groups(), options, arena_);
  driver.step(60, true);
  for (int i = 0; i < 33; ++i) driver.step(1, true);
  const CacheImage good = driver.cache().image();
  const auto load = [&](const CacheImage& image) {
    SequenceCache other(two_groups(), options, nullptr, arena_);
    other.load(image, "image");
  };
  ASSERT_NO_THROW(load(good));
  ASSERT_EQ(good.groups[0].lanes[0].segments, (std::vector<int32_t>{60, 36, 20, 12}));
  const int64_t before = arena_.pages_in_use();
  const auto refuses = [&](const char* what, const auto& change) {
    CacheImage image = good;
    change(image.groups[0], image.groups[0].lanes[0]);
    SCOPED_TRACE(what);
    expect_error(ErrorCode::kData, {"image"}, [&] { load(image); });
    EXPECT_EQ(arena_.pages_in_use(), before);
  };
  using Group = CacheImage::Group;
  refuses("half a segment", [](Group&, LaneImage& l) { l.segments.pop_back(); });
  refuses("no segments", [](Group&, LaneImage& l) { l.segments.clear(); });
  refuses("a longer one", [](Group&, LaneImage& l) { ++l.segments[0]; });
  refuses("more salient", [](Group&, LaneImage& l) { ++l.segments[1]; });
  refuses("negative", [](Group&, LaneImage& l) { l.segments[0] = -60; });
  refuses("huge", [](Group&, LaneImage& l) { l.segments[0] = INT32_MAX; });
  refuses("another cut", [](Group&, LaneImage& l) { l.segments = {50, 30, 30, 18}; });
  refuses("short ones", [](Group&, LaneImage& l) { l.segments = {70, 42, 10, 6}; });
  refuses("bytes", [](Group&, LaneImage& l) { l.coded_pages.pop_back(); });
  refuses("coded", [](Group&, LaneImage& l) { --l.coded; });
  refuses("order", [](Group&, LaneImage& l) { std::swap(l.positions[0], l.positions[1]); });
  refuses("sets", [](Group&, LaneImage& l) { std::swap(l.positions[5], l.positions[50]); });
  refuses("between segments",
          [](Group&, LaneImage& l) { std::swap(l.positions[0], l.positions[79]); });
  refuses("neighbours across a border", [](Group&, LaneImage& l) {
    // Each set stays in order.
    std::swap(*std::ranges::find(l.positions, 59), *std::ranges::find(l.positions, 60));
  });
  refuses("scores", [](Group&, LaneImage& l) { l.scores[0].pop_back(); });
  refuses("a half", [](Group&, LaneImage& l) { l.scores.pop_back(); });
  refuses("scored", [](Group&, LaneImage& l) { l.scored_rows = l.scored_end = 3; });
  refuses("probes", [](Group& g, LaneImage&) { g.probe_end = g.probe_begin; });
  refuses("probes beyond", [](Group& g, LaneImage&) { g.probe_begin = 1000; });
  refuses("probes from beyond", [](Group& g, LaneImage&) { g.probe_from = 1000; });
  // And a cache without zipcache takes none of it.
  CacheOptions plain;
  plain.page_rows = kPage;
  SequenceCache other(two_groups(), plain, nullptr, arena_);
  expect_error(ErrorCode::kData, {"image"}, [&] { other.load(good, "image"); });
}

// Uniform causal attention over four rows: sums 25/12, 13/12, 7/12, 1/4 and, divided by the rows
// that could see each, .5208, .3611, .2917, .25.
TEST_F(ZipCache, NormalisedSaliencyRanks) {
  std::vector<KvGroup> groups(1);
  groups[0].heads = 1;
  groups[0].key_dim = groups[0].value_dim = 2;
  groups[0].readers = {0};
  PagePool pool(arena_);
  ZipStore store(groups[0], read_zip("salient=0.5,every=4", 1), 4, pool);
  store.resize_scores(4, true);
  for (int64_t query = 0; query < 4; ++query) {
    for (int64_t row = 0; row <= query; ++row) {
      add_score(store.scores(), row, 1.0 / static_cast<double>(query + 1));
    }
  }
  const auto sum_of = [&](int64_t row) {
    return score_value(store.scores().low[row], store.scores().high[row]);
  };
  EXPECT_NEAR(sum_of(0), 25.0 / 12, std::ldexp(4, -kScoreBits - 1));
  EXPECT_EQ(sum_of(3), 0.25);
  const std::vector<int64_t> seen = {4, 3, 2, 1};
  EXPECT_EQ(store.order(seen), (std::vector<int64_t>{0, 1, 2, 3}));
  // By raw sums the newest row would always be the last; divided, a newest row of weight wins.
  add_score(store.scores(), 3, 0.35);
  EXPECT_EQ(store.order(seen), (std::vector<int64_t>{0, 3, 1, 2}));
  // Of equal ones the newer is salient; unseen is the most.
  store.forget_scores();
  store.resize_scores(4, true);
  for (int row = 0; row < 4; ++row) add_score(store.scores(), row, 1);
  EXPECT_EQ(store.order(std::vector<int64_t>{2, 2, 2, 2}), (std::vector<int64_t>{2, 3, 0, 1}));
  EXPECT_EQ(store.order(std::vector<int64_t>{0, 2, 2, 2}), (std::vector<int64_t>{0, 3, 1, 2}));
}

}  // namespace
}  // namespace ashlar::test
