// Every policy against a slow reference (policy_reference.h), decision for decision: texts of
// prompts in pieces of any size and decoded rows, with attention that is random, full of ties or
// broken.

#include <gtest/gtest.h>

#include <numeric>

#include "core/base/rng.h"
#include "engine/cache/sequence_cache.h"
#include "engine/policy/row_budget.h"
#include "tests/engine/attention_kinds.h"
#include "tests/engine/policy_reference.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

struct Feed {
  int64_t rows = 1;
  bool pieces = false;  // a prompt cut into several steps
};

// A cache with a real policy and the lanes that the reference keeps.
class Comparison {
 public:
  Comparison(const PolicyOptions& options, const PolicyOptions& in_full, Attention attention)
      : groups_(kv_groups(test::small_decoder("yoco"))),
        memory_(make_host_memory()),
        arena_(*memory_),
        policy_(make_policy(options, groups_)),
        cache_(groups_, {CodecKind::kF32, CodecKind::kF32}, policy_, arena_),
        reference_(in_full),
        attention_(attention) {
    for (const KvGroup& g : groups_) {
      const int64_t width = policy_->needs().per_head ? 1 : g.heads;
      for (int64_t h = 0; h < g.heads; h += width) add_lane(g, h, width);
    }
  }

  void feed(const Feed& feed, const Philox& rng, uint64_t& draw) {
    const int64_t begin = position_, end = begin + feed.rows;
    const bool prompt = acted_ == 0 || feed.rows > 1;
    while (position_ < end) {
      const int64_t left = end - position_;
      const int64_t rows =
          feed.pieces ? 1 + static_cast<int64_t>(rng.below(draw++, static_cast<uint64_t>(left)))
                      : left;
      cache_.set_acting(rows == left);
      cache_.set_prompt_end(end);
      ASSERT_NO_FATAL_FAILURE(step(rows, prompt, end));
      position_ += rows;
    }
    acted_ = end;
    for (test::ReferenceLane& lane : lanes_) {
      reference_.act(lane, prompt);
      const auto positions = cache_.positions(lane.group, lane.head);
      std::vector<int64_t> held(positions.begin(), positions.end());
      std::sort(held.begin(), held.end());
      ASSERT_EQ(held, lane.held) << "group " << lane.group << " head " << lane.head
                                 << " after position " << end - 1;
    }
  }

  int64_t dropped() const {
    int64_t sum = 0;
    for (const test::ReferenceLane& lane : lanes_) {
      sum += position_ - static_cast<int64_t>(lane.held.size());
    }
    return sum;
  }

 private:
  void add_lane(const KvGroup& g, int64_t head, int64_t width) {
    test::ReferenceLane lane;
    lane.group = g.id;
    lane.place = g.id;
    lane.places = static_cast<int64_t>(groups_.size());
    lane.head = head;
    lane.readers = static_cast<int64_t>(g.readers.size());
    lane.heads = width;
    lane.head_mass = [=, this](int64_t p, int64_t row, int64_t h) {
      double sum = 0;
      for (int64_t r = 0; r < lane_readers(g); ++r) {
        sum += added(probability(attention_, p, row, r * g.heads + head + h));
      }
      return sum;
    };
    lane.head_below = [=, this](int64_t p, int64_t row, int64_t seen, int64_t h) {
      int count = 0;
      for (int64_t r = 0; r < lane_readers(g); ++r) {
        count += below(probability(attention_, p, row, r * g.heads + head + h), seen);
      }
      return count;
    };
    const auto for_buffers = [this, &g, head, width](const auto& f) {
      for (int64_t r = 0; r < static_cast<int64_t>(g.readers.size()); ++r) {
        for (int64_t h = head; h < head + width; ++h) f(r * g.heads + h);
      }
    };
    lane.mass = [=, this](int64_t p, int64_t row) {
      double sum = 0;
      for_buffers([&](int64_t b) { sum += added(probability(attention_, p, row, b)); });
      return sum;
    };
    lane.below = [=, this](int64_t p, int64_t row, int64_t seen) {
      int count = 0;
      for_buffers([&](int64_t b) { count += below(probability(attention_, p, row, b), seen); });
      return count;
    };
    lanes_.push_back(std::move(lane));
  }

  static int64_t lane_readers(const KvGroup& g) { return static_cast<int64_t>(g.readers.size()); }
  static bool below(float p, int64_t seen) { return p < 1.0f / static_cast<float>(seen); }

  void step(int64_t rows, bool prompt, int64_t end) {
    for (test::ReferenceLane& lane : lanes_) {
      for (int64_t p = position_; p < position_ + rows; ++p) {
        lane.held.push_back(p);
        lane.queries.push_back({p, static_cast<int64_t>(lane.held.size()), prompt, end});
      }
    }
    SequenceCache* const caches[] = {&cache_};
    for (const KvGroup& g : groups_) {
      const std::vector<float> row(static_cast<size_t>(rows * g.heads * g.key_dim), 1.0f);
      cache_.append(g.id, row.data(), row.data(), rows);
      attend(g);
      SequenceCache::close(caches, g.id);
    }
  }

  void attend(const KvGroup& g) {
    std::vector<QueryTile> tiles;
    for (int64_t reader = 0; reader < static_cast<int64_t>(g.readers.size()); ++reader) {
      for (int64_t h = 0; h < g.heads; ++h) {
        const auto positions = cache_.positions(g.id, h);
        cache_.query_tiles(g.id, h, tiles);
        for (const QueryTile& tile : tiles) {
          const ScoreRows out = cache_.scores(g.id, h, tile);
          if (out.sums.low == nullptr && out.counts == nullptr) continue;
          for (int64_t r = out.from; r < tile.rows; ++r) {
            const int64_t seen = tile.visible() + r;
            for (int64_t s = 0; s < seen; ++s) {
              const float p = probability(attention_, position_ + tile.row + r,
                                          positions[static_cast<size_t>(s)], reader * g.heads + h);
              if (out.sums.low != nullptr) add_score(out.sums, s, p);
              if (out.counts != nullptr) out.counts[s] += below(p, seen) ? 1 : 0;
            }
          }
        }
      }
    }
  }

  std::vector<KvGroup> groups_;
  std::unique_ptr<MemoryProvider> memory_;
  Arena arena_;
  std::shared_ptr<const Policy> policy_;
  SequenceCache cache_;
  test::ReferencePolicy reference_;
  Attention attention_;
  std::vector<test::ReferenceLane> lanes_;
  int64_t position_ = 0, acted_ = 0;
};

struct Case {
  std::string name;
  PolicyOptions given;
  PolicyOptions in_full;  // defaults spelt out, for the reference
};

// KVCrush over every scorer, with every anchor and both features.
std::vector<Case> crush_cases() {
  std::vector<Case> out;
  const auto add = [&](const PolicyOptions& given, const PolicyOptions& in_full) {
    out.push_back({"kvcrush " + std::to_string(out.size()), given, in_full});
  };
  const std::string texts[] = {"scorer=snapkv,ratio=0.5,anchor=alternate,features=page,page=3",
                               "scorer=snapkv,ratio=0.4,anchor=zeros,page=2",
                               "scorer=h2o,ratio=0.25,anchor=mean",
                               "scorer=h2o,ratio=1,anchor=random,page=4",
                               "scorer=h2o,ratio=0,anchor=ones,features=page",
                               "scorer=scissorhands,ratio=0.5,anchor=inverse-mean",
                               "scorer=scissorhands,ratio=0.3,anchor=random,features=page,page=5",
                               "scorer=snapkv,ratio=0.75,anchor=ones,features=head"};
  for (size_t i = 0; i < std::size(texts); ++i) {
    PolicyOptions o{"kvcrush", 24, 2, 4};
    o.crush = read_crush(texts[i], 1);
    if (o.crush->scorer != CrushScorer::kH2o) o.window = i % 3 == 0 ? 3 : i == 5 ? 400 : 9;
    if (o.crush->anchor == CrushAnchor::kRandom && i % 2 == 0) o.seed = 7 + i;
    o.by_age = i == 6;
    if (i % 4 == 1) o.drop = 1;
    if (i % 4 == 3) o.drop = 12;
    if (i == 2) o.layers = "rising:3";
    if (i == 5) o.layers = "2,3,2.5";
    add(o, o);
  }
  PolicyOptions given{"kvcrush", 33, 2, -1}, in_full = given;
  in_full.recent = in_full.window = 15;
  add(given, in_full);
  given.crush = in_full.crush = read_crush("scorer=h2o", 1);
  in_full.window = -1;
  add(given, in_full);
  given.crush = in_full.crush = read_crush("scorer=scissorhands", 1);
  given.budget = in_full.budget = 70;
  in_full.recent = 32;
  in_full.window = 400;
  add(given, in_full);
  return out;
}

// `given` with everything that a policy may leave open; in_full says what that means.
std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](PolicyOptions given, const auto& change) {
    Case c{given.name + " " + std::to_string(out.size()), given, given};
    change(c.in_full);
    out.push_back(std::move(c));
  };
  const auto same = [](PolicyOptions&) {};
  const auto make = [](const std::string& name, int64_t budget, int64_t sink, int64_t recent) {
    PolicyOptions o;
    o.name = name;
    o.budget = budget;
    o.sink = sink;
    o.recent = recent;
    return o;
  };
  add(make("streaming", 20, 3, -1), [](PolicyOptions& o) { o.recent = 17; });
  add(make("streaming", 9, 0, 1), [](PolicyOptions& o) { o.recent = 9; });
  for (const char* name : {"h2o", "tova", "random"}) {
    for (const auto& [sink, recent, drop, layers] :
         {std::tuple<int64_t, int64_t, int64_t, const char*>{2, 3, -1, ""},
          {0, 1, 1, "rising"},
          {4, 5, 6, "1,3,2"},
          {1, 2, 3, "falling:4"}}) {
      PolicyOptions o = make(name, 21, sink, recent);
      o.drop = drop;
      o.layers = layers;
      if (o.name == "random" && drop == 3) o.seed = 99;
      add(o, same);
    }
    const int64_t recent = std::string(name) == "h2o" ? 9 : 1;
    add(make(name, 20, 2, -1), [&](PolicyOptions& o) { o.recent = recent; });
  }
  add(make("tova", 12, 0, 0), same);
  for (const auto& [window, drop, layers, by_age] :
       {std::tuple<int64_t, int64_t, const char*, bool>{5, 1, "", false},
        {7, 10, "", true},
        {400, -1, "", false},
        {3, -1, "rising:3", true},
        {12, 4, "2,3,2.5", false}}) {
    PolicyOptions o = make("scissorhands", 24, 2, 4);
    o.window = window;
    o.drop = drop;
    o.layers = layers;
    o.by_age = by_age;
    add(o, same);
  }
  add(make("scissorhands", 24, 2, -1), [](PolicyOptions& o) { o.recent = 10, o.window = 400; });
  for (const char* name : {"snapkv", "pyramidkv", "snapstream"}) {
    for (const auto& [window, pool, pool_rows] :
         {std::tuple<int64_t, PoolKind, int64_t>{6, PoolKind::kAverage, 5},
          {4, PoolKind::kMax, 7},
          {1, PoolKind::kNone, 1},
          {50, PoolKind::kAverage, 1},
          {9, PoolKind::kMax, 101}}) {
      PolicyOptions o = make(name, 24, 2, 4);
      o.window = window;
      o.pool = pool;
      o.pool_rows = pool_rows;
      if (o.name == "snapkv" && window == 9) o.layers = "3,1,1";
      if (o.name == "pyramidkv" && window == 9) o.layers = "falling:2";
      add(o, same);
    }
    const int64_t recent = std::string(name) == "snapstream" ? 15 : 15;
    add(make(name, 33, 2, -1), [&](PolicyOptions& o) {
      o.window = 15, o.recent = recent, o.pool = PoolKind::kAverage, o.pool_rows = 5;
    });
  }
  for (Case& c : crush_cases()) out.push_back(std::move(c));
  return out;
}

TEST(Policies, DecideAsTheirReferences) {
  const std::vector<Feed> texts[] = {
      {{57, true}},       {{1}, {40}, {3}},
      {{11, true}},       {{90, true}, {2, true}, {30, false}, {1}, {15, true}},
      {{24}, {25, true}}, {{25, true}},
      {{30}, {4}},        {{38, true}},
  };
  const int64_t decoded[] = {60, 9, 70, 8, 30, 9, 2, 3};
  for (const Case& c : cases()) {
    for (const Attention attention :
         {Attention::kRandom, Attention::kTies, Attention::kEqual, Attention::kBroken}) {
      int64_t dropped = 0;
      for (size_t t = 0; t < std::size(texts); ++t) {
        SCOPED_TRACE(c.name + " attention " + std::to_string(static_cast<int>(attention)) +
                     " text " + std::to_string(t));
        Comparison comparison(c.given, c.in_full, attention);
        const Philox rng(t);
        uint64_t draw = 0;
        for (const Feed& feed : texts[t]) {
          ASSERT_NO_FATAL_FAILURE(comparison.feed(feed, rng, draw));
          for (int64_t i = 0; i < decoded[t]; ++i)
            ASSERT_NO_FATAL_FAILURE(comparison.feed({}, rng, draw));
        }
        dropped += comparison.dropped();
      }
      EXPECT_GT(dropped, 0) << c.name;
    }
  }
}

// Without a prompt's end every feed's last rows count, and go on counting where the next adjoin.
TEST(Policies, FeedsOfOnePromptAdjoinOrBeginAnew) {
  const auto groups = kv_groups(test::small_decoder());
  const auto memory = make_host_memory();
  Arena arena(*memory);
  PolicyOptions options;
  options.name = "snapkv";
  options.budget = 200;
  options.window = 5;
  const std::shared_ptr<const Policy> policy = make_policy(options, groups);
  SequenceCache cache(groups, {}, policy, arena);
  SequenceCache* const caches[] = {&cache};
  const std::vector<float> row(100 * 16, 1.0f);
  const auto feed = [&](int64_t rows, bool acts, int64_t end) {
    cache.set_acting(acts);
    cache.set_prompt_end(end);
    for (const KvGroup& g : groups) {
      cache.append(g.id, row.data(), row.data(), rows);
      SequenceCache::close(caches, g.id);
    }
    const LaneImage lane = cache.image().groups[0].lanes[0];
    return std::pair(lane.scored_rows, lane.scored_end);
  };
  using Run = std::pair<int64_t, int64_t>;
  EXPECT_EQ(feed(20, false, 20), Run(5, 20));
  EXPECT_EQ(feed(3, false, 23), Run(8, 23));  // adjoins
  EXPECT_EQ(feed(9, false, 32), Run(5, 32));  // begins anew
  EXPECT_EQ(feed(4, false, 40), Run(1, 36));  // row 35 is one of the last five up to 40
  EXPECT_EQ(feed(4, true, 40), Run(0, 0));    // acted: forgotten
  EXPECT_EQ(feed(1, true, 41), Run(0, 0));    // decoded rows do not count
}

// What leaves the cache knows no order but cosines; of equal ones the older goes.
TEST(Policies, KeyDiffDropsTheKeysThatPointWithTheOthers) {
  PolicyOptions options;
  options.name = "keydiff";
  options.budget = 12;
  options.sink = 1;
  options.recent = 2;
  options.drop = 3;
  const auto groups = kv_groups(test::small_decoder("cla2"));
  for (const bool equal : {false, true}) {
    const auto memory = make_host_memory();
    Arena arena(*memory);
    SequenceCache cache(groups, {CodecKind::kF32, CodecKind::kF32}, make_policy(options, groups),
                        arena);
    SequenceCache* const caches[] = {&cache};
    const Philox rng(3);
    std::vector<std::vector<double>> keys;  // of group 0, all heads
    std::vector<int64_t> held;
    const KvGroup& g = groups[0];
    for (int64_t position = 0; position < 60;) {
      const int64_t rows = position == 0 ? 20 : 1;
      std::vector<float> k(static_cast<size_t>(rows * g.heads * g.key_dim));
      for (size_t i = 0; i < k.size(); ++i) {
        const auto at = static_cast<uint64_t>(position) * 1000 + i;
        k[i] = equal ? 1.0f : static_cast<float>(rng.normal(at)) + 0.3f;
      }
      cache.set_acting(true);
      for (const KvGroup& group : groups) {
        cache.append(group.id, k.data(), k.data(), rows);
        SequenceCache::close(caches, group.id);
      }
      for (int64_t r = 0; r < rows; ++r) {
        held.push_back(position + r);
        const auto begin = k.begin() + r * g.heads * g.key_dim;
        keys.emplace_back(begin, begin + g.heads * g.key_dim);
      }
      position += rows;
      // Head 0: cosine to the mean of the keys divided by their lengths.
      const auto norm = [&](const std::vector<double>& x) {
        return std::sqrt(std::inner_product(x.begin(), x.begin() + g.key_dim, x.begin(), 0.0));
      };
      std::vector<double> mean(static_cast<size_t>(g.key_dim));
      for (const int64_t row : held) {
        const auto& key = keys[static_cast<size_t>(row)];
        for (size_t i = 0; i < mean.size(); ++i)
          mean[i] += key[i] / norm(key) / static_cast<double>(held.size());
      }
      const auto cosine = [&](int64_t row) {
        const auto& key = keys[static_cast<size_t>(row)];
        return std::inner_product(mean.begin(), mean.end(), key.begin(), 0.0) / norm(key) /
               norm(mean);
      };
      const size_t goes = held.size() > 12 ? held.size() - 10 : 0;
      const auto positions = cache.positions(g.id, 0);
      std::vector<int64_t> now(positions.begin(), positions.end());
      std::sort(now.begin(), now.end());
      ASSERT_EQ(now.size(), held.size() - goes);
      if (equal) {
        held.erase(held.begin() + 1, held.begin() + 1 + static_cast<std::ptrdiff_t>(goes));
        ASSERT_EQ(now, held);
        continue;
      }
      double most_kept = -2, least_gone = 2;
      for (const int64_t row : held) {
        const bool free = row >= 1 && row <= position - 1 - 2;
        const bool kept = std::binary_search(now.begin(), now.end(), row);
        ASSERT_TRUE(kept || free) << row;
        if (kept && free) most_kept = std::max(most_kept, cosine(row));
        if (!kept) least_gone = std::min(least_gone, cosine(row));
      }
      EXPECT_GE(least_gone, most_kept - 1e-6);
      held = now;
    }
  }
}

}  // namespace
}  // namespace ashlar
