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
  HashedDrops(uint64_t seed, const PolicyNeeds& needs) : Policy(needs), rng_(seed) {}
  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const auto rows = static_cast<int64_t>(lanes[i].positions.size());
      const auto newest = static_cast<uint64_t>(lanes[i].newest);
      const uint64_t rate = rng_.below(newest, 9) == 0 ? 2 : 12;
      for (int64_t s = 0; s < rows && rows > 4; ++s) {
        const auto at = static_cast<size_t>(s);
        uint64_t key = newest * 4096 + static_cast<uint64_t>(lanes[i].positions[at]);
        if (!lanes[i].scores.empty()) key += static_cast<uint64_t>(lanes[i].scores[at] * 64) << 20;
        const auto n = static_cast<size_t>(rows);
        for (size_t h = 0; h * n < lanes[i].head_scores.size(); ++h) {
          key = key * 31 + static_cast<uint64_t>(lanes[i].head_scores[h * n + at] * 64);
        }
        key = key * 31 + static_cast<uint64_t>(lanes[i].scored_rows * 8 + lanes[i].place * 4 +
                                               lanes[i].head * 2 + (lanes[i].prompt_end ? 1 : 0));
        if (rng_.below(key, rate) == 0) edits[i].drop.push_back(s);
      }
      edits[i].forget = rng_.below(newest + 7, 5) == 0;
    }
  }

 private:
  Philox rng_;
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

  bool governs(const KvGroup& group) const { return policy != nullptr && ashlar::governs(group); }
};

PolicyNeeds random_needs(Draw& draw, size_t governed) {
  PolicyNeeds needs;
  needs.per_head = draw.one_in(2);
  if (draw.one_in(2)) return needs;
  needs.reducer = draw.one_in(4) ? ScoreReducer::kLast : ScoreReducer::kSum;
  needs.head_scores = draw.one_in(2);
  needs.decoded_rows = draw.one_in(2);
  if (draw.one_in(2)) needs.prompt_rows = 1 + draw.below(30);
  if (draw.one_in(3)) needs.scored_beyond = draw.below(60);
  for (size_t g = 0; draw.one_in(3) && g < governed; ++g) {
    needs.scored_above.resize(governed);
    needs.scored_above[g] = draw.below(40);
  }
  return needs;
}

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
  const PolicyNeeds needs = random_needs(draw, governed_groups(w.groups).size());
  w.scored = needs.reducer != ScoreReducer::kNone;
  w.policy = std::make_shared<HashedDrops>(seed, needs);
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
      const bool per_head = world.governs(g) && world.policy->needs().per_head;
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
        position_(other.position_),
        acted_(other.acted_) {}

  SequenceCache& cache() { return *cache_; }
  int64_t position() const { return position_; }

  // `rows` rows of every group in one step, or provisionally in parts of which `kept` stay.
  void step(Draw& draw, int64_t rows, bool acts, bool holds, uint64_t salt) {
    cache_->set_holding(holds);
    cache_->set_acting(acts);
    // More of the prompt may follow, and its end be known or not.
    const int64_t follow = acts || draw.one_in(2) ? 0 : draw.below(40);
    prompt_end_ = draw.one_in(3) ? -1 : position_ + rows + follow;
    cache_->set_prompt_end(prompt_end_);
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
        add_scores(g, position_);
        SequenceCache* const caches[] = {cache_.get()};
        SequenceCache::close(caches, g.id);
        shadow_close(g, acts, holds, position_ + rows);
      }
    }
    for (const KvGroup& g : world_->groups) {
      if (!holds || kept == 0) continue;
      const auto i = static_cast<size_t>(g.id);
      shadow_append(g, keys[i], values[i], 0, kept);
      shadow_close(g, acts, holds, position_ + kept);
    }
    cache_->release_reserve();
    ASSERT_EQ(cache_->unplanned_pages(), 0);
    position_ += kept;
    if (acts && kept > 0) acted_ = position_;
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
        add_scores(g, position_ + done);
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

  // The rows of a step that ends before `next` score, by the description of PolicyNeeds.
  void shadow_scores(ShadowLane& lane, const KvGroup& g, bool decoded, bool holds, int64_t next) {
    const PolicyNeeds& needs = world_->policy->needs();
    const bool afresh = needs.reducer == ScoreReducer::kLast;
    const int64_t last = afresh ? 1 : needs.prompt_rows;
    const int64_t place =
        std::count_if(world_->groups.begin(), world_->groups.begin() + g.id,
                      [&](const KvGroup& other) { return world_->governs(other); });
    const int64_t end = prompt_end_ >= 0 ? prompt_end_ : next;
    const bool any_may_be_last = holds && prompt_end_ < 0;
    for (int64_t p = position_; p < next; ++p) {
      int64_t seen = 0;
      for (const ShadowRow* row : lane.rows()) seen += row->position <= p;
      const bool asked =
          decoded ? needs.decoded_rows : last == 0 || any_may_be_last || p >= end - last;
      if (!asked || p < needs.scored_beyond || seen <= need_of(needs.scored_above, place)) continue;
      lane.score(p, afresh, [&](const ShadowRow& row, size_t buffer) {
        return probability(p, row.position, buffer);
      });
      if (afresh) lane.run = 1;
    }
  }

  void shadow_close(const KvGroup& g, bool acts, bool holds, int64_t next) {
    auto& lanes = shadow_[static_cast<size_t>(g.id)];
    // A step's encoded forms are there when the policy acts: those its newest row sees.
    for (ShadowLane& lane : lanes) lane.age(next - 1);
    const bool alone = next - position_ == 1 && prompt_end_ <= next;
    const bool decoded = acts && acted_ > 0 && acted_ == position_ && (holds || alone);
    for (ShadowLane& lane : lanes) {
      if (!world_->governs(g)) continue;
      if (world_->scored) shadow_scores(lane, g, decoded, holds, next);
      if (acts) shadow_select(lane, g, !decoded, next);
    }
    for (ShadowLane& lane : lanes) {
      // Until a policy has acted, rows are no further than when the newest was in.
      if (acts || !world_->governs(g)) lane.age(next);
      lane.forget(next);
    }
  }

  void shadow_select(ShadowLane& lane, const KvGroup& g, bool prompt_end, int64_t next) {
    const PolicyNeeds& needs = world_->policy->needs();
    const std::vector<ShadowRow*> rows = lane.rows();
    const auto heads = static_cast<size_t>(lane.heads());
    std::vector<int32_t> positions;
    std::vector<float> scores, head_scores(world_->scored ? heads * rows.size() : 0);
    for (size_t s = 0; s < rows.size(); ++s) {
      const ShadowRow* row = rows[s];
      positions.push_back(row->position);
      if (!world_->scored) continue;
      float sum = row->scores[0];
      for (size_t b = 1; b < row->scores.size(); ++b) sum += row->scores[b];
      scores.push_back(sum);
      for (size_t b = 0; b < row->scores.size(); ++b) {
        head_scores[b % heads * rows.size() + s] += row->scores[b];
      }
    }
    LaneView view{g.id, next - 1, positions, scores};
    for (const KvGroup& other : world_->groups) {
      if (other.id < g.id && world_->governs(other)) ++view.place;
    }
    view.head = lane.head_begin();
    view.heads = lane.heads();
    view.prompt_end = prompt_end;
    view.scored_rows = lane.run;
    if (needs.head_scores) view.head_scores = head_scores;
    LaneEdit edit;
    world_->policy->select(std::span(&view, 1), std::span(&edit, 1));
    lane.drop(edit.drop);
    if (edit.forget) lane.forget_scores();
  }

  // What the queries of a step see while it is under way: a shadow of its own for one of them.
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
      }
    }
  }

  // What attention adds to the cache's scores for the rows appended last, the first at `first`.
  void add_scores(const KvGroup& g, int64_t first) {
    std::vector<QueryTile> tiles;
    for (size_t reader = 0; world_->scored && reader < g.readers.size(); ++reader) {
      for (ShadowLane& lane : shadow_[static_cast<size_t>(g.id)]) {
        const auto positions = cache_->positions(g.id, lane.head_begin());
        for (int64_t h = lane.head_begin(); h < lane.head_begin() + lane.heads(); ++h) {
          const size_t buffer = reader * static_cast<size_t>(lane.heads()) +
                                static_cast<size_t>(h - lane.head_begin());
          cache_->query_tiles(g.id, h, tiles);
          for (const QueryTile& tile : tiles) {
            const ScoreRows out = cache_->scores(g.id, h, tile);
            for (int64_t r = out.from; out.sums.low != nullptr && r < tile.rows; ++r) {
              for (int64_t s = 0; s < tile.visible() + r; ++s) {
                add_score(
                    out.sums, s,
                    probability(first + tile.row + r, positions[static_cast<size_t>(s)], buffer));
              }
            }
          }
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
      ASSERT_NO_FATAL_FAILURE(check_scores(own, lane, s, *rows[s]));
    }
    ASSERT_EQ(own.scored_rows, lane.run);
    ASSERT_EQ(own.scored_end, lane.run_end);
  }

  // Halves of a number per head, or of one for all; without a run of rows that score, none.
  void check_scores(const LaneImage& image, const ShadowLane& lane, size_t slot,
                    const ShadowRow& row) {
    if (row.scores.empty()) return;
    const auto heads = static_cast<size_t>(lane.heads());
    std::vector<double> want(world_->policy->needs().head_scores ? heads : 1);
    for (size_t b = 0; b < row.scores.size(); ++b) {
      want[b % heads % want.size()] += static_cast<double>(row.scores[b]);
    }
    ASSERT_EQ(image.scores.size(), 2 * want.size());
    for (size_t b = 0; b < want.size(); ++b) {
      const auto& low = image.scores[2 * b];
      const auto& high = image.scores[2 * b + 1];
      ASSERT_EQ(lane.run > 0 ? score_value(low[slot], high[slot]) : 0.0, want[b]);
    }
  }

  const World* world_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<std::vector<ShadowLane>> shadow_;  // by group
  int64_t position_ = 0, acted_ = 0;
  int64_t prompt_end_ = -1;  // of the step under way
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
  ASSERT_LE(arena.retired_bytes(), arena.chunk_bytes_in_use());
}

// Chunks are asked back; sometimes all texts make way at once, which empties every one.
void give_back(Draw& draw, const std::vector<std::unique_ptr<Pair>>& pairs, Arena& arena) {
  const int64_t bytes = 1 + draw.below(8 * Arena::kChunkBytes);
  const int64_t before = arena.retired_bytes(), all = arena.chunk_bytes_in_use();
  const int64_t coming = arena.retire_bytes(bytes);
  ASSERT_EQ(arena.retired_bytes(), before + coming);
  ASSERT_TRUE(coming >= bytes || before + coming == all);
  if (draw.below(3) != 0) return;
  for (const auto& pair : pairs) pair->cache().swap_out();
  ASSERT_EQ(arena.chunk_bytes_in_use(), 0);
  ASSERT_EQ(arena.retired_bytes(), 0);
  for (const auto& pair : pairs) pair->cache().swap_in();
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
    } else if (kind == 19) {
      ASSERT_NO_FATAL_FAILURE(give_back(draw, pairs, arena));
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
