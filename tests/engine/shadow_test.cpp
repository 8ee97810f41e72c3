// Random operations on caches that share one arena, each beside a shadow (shadow_cache.h): every
// row is where it belongs, in the form that the schedule says, no page is lost or counted twice.
// ASHLAR_CACHE_OPERATIONS (default 60000) and ASHLAR_SEED repeat or lengthen a run.

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "core/base/rng.h"
#include "tests/engine/cache_rows.h"
#include "tests/engine/shadow_cache.h"

namespace ashlar::test {
namespace {

uint64_t from_environment(const char* name, uint64_t fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : std::stoull(value);
}

class Draw {
 public:
  explicit Draw(uint64_t seed) : rng_(seed) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(rng_.below(next_++, static_cast<uint64_t>(bound)));
  }
  bool one_in(int64_t n) { return below(n) == 0; }

 private:
  Philox rng_;
  uint64_t next_ = 0;
};

// Drops are a function of what the policy sees, so that the shadow can ask it too.
class HashedDrops final : public Policy {
 public:
  HashedDrops(uint64_t seed, ScoreReducer reducer, bool per_head)
      : rng_(seed), reducer_(reducer), per_head_(per_head) {}
  ScoreReducer reducer() const override { return reducer_; }
  bool per_head() const override { return per_head_; }
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const auto rows = static_cast<int64_t>(lanes[i].positions.size());
      const auto newest = static_cast<uint64_t>(lanes[i].newest);
      const uint64_t rate = rng_.below(newest, 9) == 0 ? 2 : 12;
      for (int64_t s = 0; s < rows && rows > 4; ++s) {
        const auto at = static_cast<size_t>(s);
        uint64_t key = newest * 4096 + static_cast<uint64_t>(lanes[i].positions[at]);
        if (!lanes[i].scores.empty()) key += static_cast<uint64_t>(lanes[i].scores[at] * 64) << 20;
        if (rng_.below(key, rate) == 0) edits[i].drop.push_back(s);
      }
    }
  }

 private:
  Philox rng_;
  ScoreReducer reducer_;
  bool per_head_;
};

// What attention would add for the query at `position`.
float probability(int64_t position, int64_t row, size_t buffer) {
  return static_cast<float>((position * 31 + row * 7 + static_cast<int64_t>(buffer)) % 64) / 64.0f;
}

// A model's groups, a way to store them and a policy.
struct World {
  std::vector<KvGroup> groups;
  CacheOptions options;
  std::shared_ptr<const Policy> policy;
  bool scored = false;
};

World random_world(Draw& draw, uint64_t seed) {
  World w;
  const int64_t count = 1 + draw.below(3);
  for (int64_t id = 0; id < count; ++id) {
    KvGroup g;
    g.id = id;
    g.heads = 1 + draw.below(3);
    g.key_dim = 1 + draw.below(9);
    g.value_in_key = draw.one_in(5);
    g.value_dim = g.value_in_key ? 1 + draw.below(g.key_dim) : 1 + draw.below(9);
    if (draw.one_in(4)) g.window = 1 + draw.below(150);
    for (int64_t r = 0; r <= draw.below(2); ++r) g.readers.push_back(2 * id + r);
    w.groups.push_back(g);
  }
  constexpr int64_t kPages[] = {1, 2, 3, 5, 8, 16, 32};
  const bool precise = draw.one_in(2);  // the codecs from q8 on are coarser than fp16
  w.options.key_codec = kCodecKinds[precise ? 3 + draw.below(4) : draw.below(7)];
  w.options.value_codec = kCodecKinds[precise ? 3 + draw.below(4) : draw.below(7)];
  w.options.page_rows = kPages[draw.below(7)];
  if (precise) {
    w.options.precise_sinks = draw.below(20);
    w.options.residual = draw.below(50);
  }
  if (draw.one_in(3)) return w;
  w.scored = draw.one_in(2);
  w.policy = std::make_shared<HashedDrops>(
      seed, w.scored ? ScoreReducer::kSum : ScoreReducer::kNone, draw.one_in(2));
  return w;
}

// A cache and its shadow.
class Pair {
 public:
  Pair(const World& world, Arena& arena)
      : world_(&world),
        cache_(std::make_unique<SequenceCache>(world.groups, world.options, world.policy, arena)) {
    for (const KvGroup& g : world.groups) {
      auto& lanes = shadow_.emplace_back();
      const bool per_head = world.policy && world.policy->per_head() && g.window == 0;
      const int64_t width = per_head ? 1 : g.heads;
      const bool scored = world.scored && g.window == 0;
      for (int64_t h = 0; h < g.heads; h += width) {
        lanes.emplace_back(g, h, width, world.options,
                           scored ? g.readers.size() * static_cast<size_t>(width) : 0);
      }
    }
  }
  Pair(const Pair& other)
      : world_(other.world_),
        cache_(other.cache_->fork()),
        shadow_(other.shadow_),
        position_(other.position_) {}

  SequenceCache& cache() { return *cache_; }
  int64_t position() const { return position_; }

  // `rows` rows of every group in one step, or provisionally in parts of which `kept` stay.
  void step(Draw& draw, int64_t rows, bool acts, bool holds, uint64_t salt) {
    cache_->set_holding(holds);
    cache_->set_acting(acts);
    cache_->prepare(rows, rows);
    std::vector<std::vector<float>> keys, values;
    for (const KvGroup& g : world_->groups) {
      keys.push_back(random_rows(rows * g.heads * g.key_dim, salt + static_cast<uint64_t>(g.id)));
      values.push_back(
          random_rows(rows * g.heads * g.value_dim, salt + 100 + static_cast<uint64_t>(g.id)));
    }
    const int64_t kept = holds ? draw.below(rows + 1) : rows;
    if (holds) {
      append_held(draw, keys, values, rows, kept);
    } else {
      for (const KvGroup& g : world_->groups) {
        const auto i = static_cast<size_t>(g.id);
        cache_->append(g.id, keys[i].data(), values[i].data(), rows);
        shadow_append(g, keys[i], values[i], 0, rows);
        ASSERT_NO_FATAL_FAILURE(check_tiles(draw, g, rows));
        SequenceCache* const caches[] = {cache_.get()};
        SequenceCache::close(caches, g.id);
        shadow_close(g, acts, position_ + rows);
      }
    }
    for (const KvGroup& g : world_->groups) {
      if (!holds || kept == 0) continue;
      const auto i = static_cast<size_t>(g.id);
      shadow_append(g, keys[i], values[i], 0, kept);
      shadow_close(g, acts, position_ + kept);
    }
    cache_->release_reserve();
    ASSERT_EQ(cache_->unplanned_pages(), 0);
    position_ += kept;
  }

  // Saves, and another cache takes it up.
  void reload(Arena& arena) {
    const CacheImage image = cache_->image();
    auto other =
        std::make_unique<SequenceCache>(world_->groups, world_->options, world_->policy, arena);
    other->load(image, "image");
    ASSERT_TRUE(other->image() == image);
    cache_ = std::move(other);
  }

  void check(Draw& draw, bool all) {
    for (const KvGroup& g : world_->groups) {
      ASSERT_EQ(cache_->position(g.id), position_);
      auto& lanes = shadow_[static_cast<size_t>(g.id)];
      const size_t only = static_cast<size_t>(draw.below(static_cast<int64_t>(lanes.size())));
      for (size_t l = 0; l < lanes.size(); ++l) {
        if (!all && l != only) continue;
        ASSERT_NO_FATAL_FAILURE(check_lane(draw, g, l, all));
      }
    }
  }

 private:
  static std::vector<float> random_rows(int64_t n, uint64_t seed) {
    const Philox rng(seed);
    std::vector<float> out(static_cast<size_t>(n));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<float>(rng.uniform(i)) * 4.0f - 2.0f;
    }
    return out;
  }

  void append_held(Draw& draw, const std::vector<std::vector<float>>& keys,
                   const std::vector<std::vector<float>>& values, int64_t rows, int64_t kept) {
    // Some rows come, go and come again before the right ones are in.
    for (int64_t done = 0; done < rows;) {
      const int64_t n = 1 + draw.below(rows - done);
      for (const KvGroup& g : world_->groups) {
        const auto i = static_cast<size_t>(g.id);
        cache_->append(g.id, keys[i].data() + done * g.heads * g.key_dim,
                       values[i].data() + done * g.heads * g.value_dim, n);
      }
      done += n;
      if (draw.one_in(4)) {
        done = draw.below(done + 1);
        cache_->truncate_provisional(done);
        cache_->prepare(rows - done, rows);
      }
    }
    SequenceCache* const caches[] = {cache_.get()};
    SequenceCache::commit(caches, std::span(&kept, 1));
  }

  void shadow_append(const KvGroup& g, const std::vector<float>& keys,
                     const std::vector<float>& values, int64_t first, int64_t rows) {
    for (ShadowLane& lane : shadow_[static_cast<size_t>(g.id)]) {
      for (int64_t r = first; r < rows; ++r) {
        lane.append(position_ + r, keys.data() + r * g.heads * g.key_dim,
                    values.data() + r * g.heads * g.value_dim);
      }
    }
  }

  void shadow_close(const KvGroup& g, bool acts, int64_t next) {
    auto& lanes = shadow_[static_cast<size_t>(g.id)];
    // A step's encoded forms are there when the policy acts: those its newest row sees.
    for (ShadowLane& lane : lanes) lane.age(next - 1);
    if (acts && world_->policy && g.window == 0) {
      for (ShadowLane& lane : lanes) {
        std::vector<int32_t> positions;
        std::vector<float> scores;
        for (const ShadowRow* row : lane.rows()) {
          positions.push_back(row->position);
          if (!world_->scored) continue;
          float sum = row->scores[0];
          for (size_t b = 1; b < row->scores.size(); ++b) sum += row->scores[b];
          scores.push_back(sum);
        }
        const LaneView view{g.id, next - 1, positions, scores, {}};
        LaneEdit edit;
        world_->policy->select(std::span(&view, 1), std::span(&edit, 1));
        lane.drop(edit.drop);
      }
    }
    for (ShadowLane& lane : lanes) {
      // Until a policy has acted, rows are no further than when the newest was in.
      if (acts || !world_->policy || g.window > 0) lane.age(next);
      lane.forget(next);
    }
  }

  // What the queries of a step see while it is under way: a shadow of its own for one of them.
  // Scores are added for all.
  void check_tiles(Draw& draw, const KvGroup& g, int64_t rows) {
    const int64_t query = draw.below(rows);
    auto& lanes = shadow_[static_cast<size_t>(g.id)];
    for (ShadowLane& lane : lanes) {
      for (int64_t h = lane.head_begin(); h < lane.head_begin() + lane.heads(); ++h) {
        std::vector<QueryTile> tiles;
        cache_->query_tiles(g.id, h, tiles);
        for (const QueryTile& tile : tiles) {
          if (query < tile.row || query >= tile.row + tile.rows) continue;
          ASSERT_NO_FATAL_FAILURE(
              check_seen(lane, g, h, tile, position_ + query, query - tile.row));
        }
        for (size_t reader = 0; world_->scored && reader < g.readers.size(); ++reader) {
          add_scores(lane, g, h, reader, tiles);
        }
      }
    }
  }

  void add_scores(ShadowLane& lane, const KvGroup& g, int64_t h, size_t reader,
                  const std::vector<QueryTile>& tiles) {
    const size_t buffer =
        reader * static_cast<size_t>(lane.heads()) + static_cast<size_t>(h - lane.head_begin());
    const std::vector<ShadowRow*> all = lane.rows();
    for (const QueryTile& tile : tiles) {
      const ScoreRows out = cache_->scores(g.id, h, static_cast<int64_t>(reader), tile);
      if (out.sums == nullptr) continue;
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t p = position_ + tile.row + r;
        for (int64_t s = 0; s < tile.visible() + r; ++s) {
          ShadowRow& row = *all[static_cast<size_t>(s)];
          out.sums[s] += probability(p, row.position, buffer);
          row.scores[buffer] += probability(p, row.position, buffer);
        }
      }
    }
  }

  void check_seen(ShadowLane lane, const KvGroup& g, int64_t h, const QueryTile& tile, int64_t p,
                  int64_t row_of_tile) {
    lane.age(p);
    const KvHeadView view = cache_->view(g.id, h, tile);
    int64_t slot = 0;
    for (const ShadowRow* row : lane.rows()) {
      if (row->position > p) break;
      ASSERT_NO_FATAL_FAILURE(expect_row(view, g, lane, h, slot, *row)) << "query " << p;
      ++slot;
    }
    ASSERT_EQ(slot, tile.visible() + row_of_tile);
  }

  void expect_row(const KvHeadView& view, const KvGroup& g, const ShadowLane& lane, int64_t h,
                  int64_t slot, const ShadowRow& row) {
    const int64_t local = h - lane.head_begin();
    std::vector<float> expected(row.keys.begin() + local * g.key_dim,
                                row.keys.begin() + (local + 1) * g.key_dim);
    if (!g.value_in_key) {
      expected.insert(expected.end(), row.values.begin() + local * g.value_dim,
                      row.values.begin() + (local + 1) * g.value_dim);
    }
    ASSERT_EQ(slot_values(view, g, lane.heads(), local, slot), expected)
        << "group " << g.id << " head " << h << " slot " << slot << " position " << row.position;
  }

  void check_lane(Draw& draw, const KvGroup& g, size_t l, bool all) {
    ShadowLane& lane = shadow_[static_cast<size_t>(g.id)][l];
    const std::vector<ShadowRow*> rows = lane.rows();
    const auto positions = cache_->positions(g.id, lane.head_begin());
    ASSERT_EQ(positions.size(), rows.size());
    for (size_t s = 0; s < rows.size(); ++s) ASSERT_EQ(positions[s], rows[s]->position);
    if (rows.empty() || !(all || draw.one_in(8))) return;
    const CacheImage image = cache_->image();
    const LaneImage& own = image.groups[static_cast<size_t>(g.id)].lanes[l];
    const int64_t h = lane.head_begin() + draw.below(lane.heads());
    const KvHeadView view = cache_->view(g.id, h, everything(own));
    for (size_t s = 0; s < rows.size(); ++s) {
      ASSERT_NO_FATAL_FAILURE(expect_row(view, g, lane, h, static_cast<int64_t>(s), *rows[s]));
      for (size_t b = 0; b < rows[s]->scores.size(); ++b) {
        ASSERT_EQ(own.scores[b][s], rows[s]->scores[b]);
      }
    }
  }

  const World* world_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<std::vector<ShadowLane>> shadow_;  // by group
  int64_t position_ = 0;
};

// Every byte that the provider has handed out is a chunk or a table of one of the caches.
void check_bytes(const std::vector<std::unique_ptr<Pair>>& pairs, const Arena& arena,
                 const MemoryProvider& memory) {
  int64_t pages = 0, tables = 0;
  for (const auto& pair : pairs) {
    pages += pair->cache().bytes().pages;
    tables += pair->cache().bytes().tables;
  }
  ASSERT_EQ(arena.owned_bytes(), pages);
  ASSERT_LE(arena.page_bytes_in_use(), pages);
  ASSERT_EQ(memory.bytes_in_use(), arena.chunk_bytes_in_use() + tables);
}

void run_world(uint64_t seed, int64_t operations) {
  Draw draw(seed);
  const World world = random_world(draw, seed);
  const auto memory = make_host_memory();
  Arena arena(*memory);
  std::vector<std::unique_ptr<Pair>> pairs;
  for (int64_t op = 0; op < operations; ++op) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " operation " << op);
    if (pairs.empty() || (pairs.size() < 4 && draw.one_in(40))) {
      pairs.push_back(std::make_unique<Pair>(world, arena));
    }
    const auto which = static_cast<size_t>(draw.below(static_cast<int64_t>(pairs.size())));
    Pair& pair = *pairs[which];
    const auto salt = static_cast<uint64_t>(op) * 1000 + seed;
    const int64_t kind = draw.below(20);
    if (kind < 9) {
      ASSERT_NO_FATAL_FAILURE(pair.step(draw, 1, draw.below(4) != 0, false, salt));
    } else if (kind < 13) {
      ASSERT_NO_FATAL_FAILURE(pair.step(draw, 1 + draw.below(40), draw.one_in(4), false, salt));
    } else if (kind < 15) {
      ASSERT_NO_FATAL_FAILURE(pair.step(draw, 1 + draw.below(20), draw.one_in(2), true, salt));
    } else if (kind == 15 && pairs.size() < 6) {
      pairs.push_back(std::make_unique<Pair>(pair));
    } else if (kind == 16) {
      pair.cache().swap_out();
      ASSERT_EQ(pair.cache().bytes().pages, 0);
      pair.cache().swap_in();
    } else if (kind == 17) {
      ASSERT_NO_FATAL_FAILURE(pair.reload(arena));
    } else if (kind == 18 || pair.position() > 300) {
      pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(which));
      ASSERT_NO_FATAL_FAILURE(check_bytes(pairs, arena, *memory));
      continue;
    }
    ASSERT_NO_FATAL_FAILURE(check_bytes(pairs, arena, *memory));
    ASSERT_NO_FATAL_FAILURE(pair.check(draw, draw.one_in(50)));
  }
  pairs.clear();
  EXPECT_EQ(arena.pages_in_use(), 0);
  EXPECT_EQ(memory->bytes_in_use(), 0);
}

TEST(ShadowCache, RandomOperationsAgree) {
  const auto operations = static_cast<int64_t>(from_environment("ASHLAR_CACHE_OPERATIONS", 60000));
  const uint64_t seed = from_environment("ASHLAR_SEED", 1);
  constexpr int64_t kPerWorld = 500;
  for (int64_t done = 0; done < operations; done += kPerWorld) {
    run_world(seed + static_cast<uint64_t>(done / kPerWorld), kPerWorld);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace ashlar::test
