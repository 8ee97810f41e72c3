// ArkVale in a cache: its decisions against a slow state machine (arkvale_reference.h), what comes
// back from the backup, and what is refused. Keys and queries are multiples of small powers of two,
// so that digests which bound are exact and ties are ties.

#include "engine/policy/arkvale.h"

#include <gtest/gtest.h>

#include <map>

#include "core/base/rng.h"
#include "engine/cache/sequence_cache.h"
#include "tests/engine/arkvale_reference.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

constexpr int64_t kQueryHeads = 4;

PolicyOptions options_of(int64_t page_rows, int64_t budget, int64_t sink = 4, int64_t recent = -1) {
  PolicyOptions o;
  o.name = "arkvale";
  o.page_rows = page_rows;
  o.budget = budget;
  o.sink = sink;
  o.recent = recent;
  return o;
}

enum class Numbers { kRandom, kTies, kEqual, kBrokenQueries };

// Multiples of 1/4 up to 1.
float number(Numbers kind, uint64_t stream, int64_t position, int64_t index) {
  const uint64_t bits = Philox(stream).bits(static_cast<uint64_t>(position * 4096 + index));
  if (kind == Numbers::kEqual) return 0.5f;
  if (kind == Numbers::kBrokenQueries && stream == 2 && position % 3 == 0) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  if (kind == Numbers::kTies) return bits % 2 == 0 ? 0.25f : -0.25f;
  return static_cast<float>(static_cast<int64_t>(bits % 9) - 4) / 4.0f;
}

/// A cache of one model whose keys and queries are made of the position alone.
class Text {
 public:
  Text(const PolicyOptions& options, Numbers numbers, CodecKind codec = CodecKind::kF32,
       const std::string& sharing = "cla2")
      : groups_(kv_groups(test::small_decoder(sharing))),
        memory_(make_host_memory()),
        arena_(*memory_),
        policy_(make_policy(options, groups_)),
        cache_(groups_, {codec, codec, options.page_rows}, policy_, arena_),
        numbers_(numbers) {}

  std::vector<float> keys(const KvGroup& g, int64_t first, int64_t rows) const {
    std::vector<float> out;
    for (int64_t p = first; p < first + rows; ++p) {
      for (int64_t i = 0; i < g.heads * g.key_dim; ++i) {
        out.push_back(key_override.contains(p) ? key_override.at(p)
                                               : number(numbers_, 1 + 10 * (g.id + 1), p, i));
      }
    }
    return out;
  }
  std::vector<float> queries(const KvGroup& g, int64_t first, int64_t rows) const {
    std::vector<float> out;
    for (int64_t p = first; p < first + rows; ++p) {
      for (int64_t i = 0; i < kQueryHeads * g.key_dim; ++i) {
        out.push_back(query_override.contains(p) ? query_override.at(p)
                                                 : number(numbers_, 2, p, i));
      }
    }
    return out;
  }

  /// One step of `rows` rows; `attending` runs when each group's pages are chosen.
  template <typename F>
  void step(int64_t rows, bool acts, int64_t prompt_end, const F& attending) {
    cache_.set_acting(acts);
    cache_.set_prompt_end(prompt_end);
    cache_.prepare(rows, rows);
    SequenceCache* const caches[] = {&cache_};
    for (const KvGroup& g : groups_) {
      const auto k = keys(g, position_, rows);
      cache_.append(g.id, k.data(), k.data(), rows);
      const auto q = queries(g, position_, rows);
      cache_.see_queries(g.id, q.data(), kQueryHeads, pool_);
      attending(g);
      SequenceCache::close(caches, g.id);
    }
    cache_.release_reserve();
    position_ += rows;
  }
  void step(int64_t rows, bool acts = true) {
    step(rows, acts, -1, [](const KvGroup&) {});
  }

  const Lane& lane(int64_t group = 0) const { return *cache_.lanes()[static_cast<size_t>(group)]; }
  std::vector<int32_t> resident(int64_t group = 0) const {
    const auto pages = lane(group).recall()->resident();
    return {pages.begin(), pages.end()};
  }
  SequenceCache& cache() { return cache_; }
  std::span<const KvGroup> groups() const { return groups_; }
  int64_t position() const { return position_; }
  const std::shared_ptr<const Policy>& policy() const { return policy_; }
  Arena& arena() { return arena_; }

  std::map<int64_t, float> key_override, query_override;  // by position, all elements

 private:
  std::vector<KvGroup> groups_;
  std::unique_ptr<MemoryProvider> memory_;
  Arena arena_;
  std::shared_ptr<const Policy> policy_;
  SequenceCache cache_;
  Numbers numbers_;
  ThreadPool pool_{2};
  int64_t position_ = 0;
};

// Positions are those of the resident pages and of the raw rows, in order; resident pages are
// byte for byte their backups.
void expect_whole(const Lane& lane, int64_t page_rows, int64_t position) {
  const LaneImage image = lane.image();
  const PageRecall& recall = *lane.recall();
  std::vector<int32_t> expected;
  for (const int32_t page : recall.resident()) {
    for (int64_t r = 0; r < page_rows; ++r) {
      expected.push_back(static_cast<int32_t>(page * page_rows + r));
    }
  }
  for (int64_t p = recall.pages() * page_rows; p < position; ++p) {
    expected.push_back(static_cast<int32_t>(p));
  }
  ASSERT_EQ(image.positions, expected);
  ASSERT_EQ(image.coded, std::ssize(image.resident) * page_rows);
  const auto bytes = static_cast<size_t>(recall.pages() == 0 ? 0 : recall.backup(0).bytes());
  ASSERT_EQ(image.coded_pages.size(), image.resident.size() * bytes);
  for (size_t i = 0; i < image.resident.size(); ++i) {
    ASSERT_TRUE(std::ranges::equal(std::span(image.coded_pages).subspan(i * bytes, bytes),
                                   recall.backup(image.resident[i]).copy()))
        << "page " << image.resident[i];
  }
  // Every page in one place.
  ASSERT_EQ(image.backup.size(),
            (static_cast<size_t>(recall.pages()) - image.resident.size()) * bytes);
}

struct Case {
  std::string name;
  PolicyOptions options;
  test::ReferenceArkvale::Options numbers;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](const std::string& name, PolicyOptions o, int64_t pages, int64_t sinks,
                       int64_t window, int64_t ranked) {
    const std::string digest = o.digest.empty() ? "cuboid_mean" : o.digest;
    const size_t colon = digest.find(':');
    const int64_t rows =
        colon == std::string::npos ? o.page_rows : std::stoll(digest.substr(colon + 1));
    out.push_back({name,
                   o,
                   {digest.substr(0, colon), o.page_rows, rows, o.budget, pages, sinks, window,
                    ranked, o.select_every}});
  };
  add("defaults", options_of(4, 32), 8, 1, 2, 2);  // topk 16 rows: four pages, two of them kept
  PolicyOptions o = options_of(4, 27, 0, 1);       // no multiple of a page
  o.digest = "cuboid_max:2";
  add("no sinks", o, 6, 0, 1, 3);
  o = options_of(4, 30, 5, 6);
  o.digest = "cuboid_center:1";
  o.topk = 20;  // five pages, two sinks, two newest
  add("narrow", o, 7, 2, 3, 1);
  o = options_of(16, 100, 1);
  o.digest = "cuboid_max:16";
  add("pages of 16", o, 6, 1, 2, 1);
  o = options_of(4, 33, 4, 1);
  o.topk = 28;
  o.select_every = 3;
  add("seldom", o, 8, 1, 1, 6);
  o = options_of(1, 9, 2, 2);
  add("pages of 1", o, 9, 2, 2, 1);
  for (const char* sphere : {"sphere_max", "sphere_center:2", "sphere_mean"}) {
    o = options_of(4, 32);
    o.digest = sphere;
    add(sphere, o, 8, 1, 2, 2);
  }
  return out;
}

// The text of a case beside the reference's lanes.
class Comparison {
 public:
  Comparison(const Case& c, Numbers numbers) : case_(c), text_(c.options, numbers) {
    for (size_t g = 0; g < text_.groups().size(); ++g) lanes_.emplace_back(c.numbers);
  }

  void feed(int64_t rows, const std::vector<int64_t>& pieces) {
    const bool prompt = text_.position() == 0 || rows > 1;
    const int64_t end = text_.position() + rows;
    for (size_t i = 0; text_.position() < end; ++i) {
      const int64_t left = end - text_.position();
      const int64_t n = i < pieces.size() ? std::min(left, pieces[i]) : left;
      step(n, n == left, prompt, end);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  int64_t recalls = 0;

 private:
  void step(int64_t rows, bool acts, bool prompt, int64_t end) {
    const int64_t newest = text_.position() + rows - 1, p = case_.options.page_rows;
    text_.step(rows, acts, end, [&](const KvGroup& g) {
      test::ReferenceArkvale& lane = lanes_[static_cast<size_t>(g.id)];
      fill(lane, g, newest / p);
      // As the paper counts: an exactly full page waits for its successor.
      ASSERT_EQ(lane.pages(), (newest + 1 + p - 1) / p - 1);
      if (!prompt && acts) decide(lane, g, newest, false);
      if (prompt || !acts) return;
      // What attention reads now.
      ASSERT_EQ(text_.resident(g.id), lane.resident_pages()) << "query " << newest;
      std::vector<QueryTile> tiles;
      text_.cache().query_tiles(g.id, 0, tiles);
      ASSERT_EQ(tiles.size(), 1u);
      const int64_t raw = tiles[0].raw_visible;
      ASSERT_TRUE(raw >= 1 && raw <= p);
      ASSERT_EQ(tiles[0].visible(), lane.resident() * p + raw);
      ASSERT_LE(tiles[0].visible(), case_.options.budget);
    });
    for (const KvGroup& g : text_.groups()) {
      test::ReferenceArkvale& lane = lanes_[static_cast<size_t>(g.id)];
      if (prompt && acts) decide(lane, g, newest, true);
      if (acts) fill(lane, g, (newest + 1) / p);
      ASSERT_EQ(text_.resident(g.id), lane.resident_pages()) << "after " << newest;
      ASSERT_TRUE(lane.consistent());
      ASSERT_NO_FATAL_FAILURE(expect_whole(text_.lane(g.id), p, newest + 1));
      if (acts) {
        ASSERT_LE(text_.cache().rows(g.id, 0), case_.options.budget);
      }
    }
    const PageRecall& recall = *text_.lane().recall();
    ASSERT_EQ(recall.table_bytes(), recall.tables_of(recall.pages()));
    ASSERT_EQ(text_.cache().unplanned_pages(), 0);
  }

  void fill(test::ReferenceArkvale& lane, const KvGroup& g, int64_t pages) {
    while (lane.pages() < pages) {
      const auto keys =
          text_.keys(g, lane.pages() * case_.options.page_rows, case_.options.page_rows);
      std::vector<test::Vectors> of_heads(static_cast<size_t>(g.heads));
      for (size_t i = 0; i < keys.size(); i += static_cast<size_t>(g.key_dim)) {
        const auto from = keys.begin() + static_cast<std::ptrdiff_t>(i);
        of_heads[i / static_cast<size_t>(g.key_dim) % static_cast<size_t>(g.heads)].emplace_back(
            from, from + g.key_dim);
      }
      lane.fill(of_heads);
    }
  }

  void decide(test::ReferenceArkvale& lane, const KvGroup& g, int64_t newest, bool prompt_end) {
    if (!lane.selects(newest, prompt_end)) return;
    const auto q = text_.queries(g, newest, 1);
    test::Vectors queries;
    for (auto at = q.begin(); at != q.end(); at += g.key_dim) {
      queries.emplace_back(at, at + g.key_dim);
    }
    auto scores = lane.scores(queries);
    if (case_.numbers.digest != "cuboid_max") scores = own_scores(g, q, scores);
    const auto recalled = lane.select(scores, prompt_end);
    recalls += std::ssize(recalled);
    if (!prompt_end) {
      ASSERT_LE(std::ssize(recalled), case_.numbers.ranked);
    }
  }

  // What the cache's own digests say: they are rounded, so they decide for the reference once they
  // are found to be close to its scores. Spheres are fp16; corners within ±1 of a digest of 8 bits
  // are off by 1/255 at most, and by 2^-11 for what they begin with, in each of 8 channels of
  // queries up to 1.
  std::vector<double> own_scores(const KvGroup& g, const std::vector<float>& q,
                                 const std::vector<double>& expected) {
    std::vector<float> own;
    text_.lane(g.id).recall()->score(q, nullptr, own);
    std::vector<double> out(expected);
    for (size_t page = 0; page < out.size(); ++page) {
      if (out[page] < -1e200) continue;  // not a number
      const double score = static_cast<double>(own[page]);
      const double bound = case_.numbers.digest.starts_with("sphere")
                               ? 0.02
                               : static_cast<double>(g.key_dim) * (1.0 / 255 + 0x1p-11);
      EXPECT_NEAR(score, out[page], bound) << "page " << page;
      out[page] = score;
    }
    return out;
  }

  Case case_;
  Text text_;
  std::vector<test::ReferenceArkvale> lanes_;
};

TEST(Arkvale, DecidesAsItsReference) {
  struct Feed {
    int64_t rows;
    std::vector<int64_t> pieces;
  };
  const std::vector<Feed> prompts[] = {{{57, {}}},
                                       {{1, {}}, {40, {3, 20}}, {9, {1}}},
                                       {{128, {50, 1, 13}}},
                                       {{16, {4, 4}}, {113, {}}}};
  const int64_t decoded[] = {70, 33, 40, 20};
  for (const Case& c : cases()) {
    int64_t recalls = 0;
    for (const Numbers numbers :
         {Numbers::kRandom, Numbers::kTies, Numbers::kEqual, Numbers::kBrokenQueries}) {
      for (size_t t = 0; t < std::size(prompts); ++t) {
        SCOPED_TRACE(c.name + " numbers " + std::to_string(static_cast<int>(numbers)) + " text " +
                     std::to_string(t));
        Comparison comparison(c, numbers);
        for (const Feed& feed : prompts[t]) {
          ASSERT_NO_FATAL_FAILURE(comparison.feed(feed.rows, feed.pieces));
          for (int64_t i = 0; i < decoded[t]; ++i) {
            ASSERT_NO_FATAL_FAILURE(comparison.feed(1, {}));
          }
        }
        recalls += comparison.recalls;
      }
    }
    EXPECT_GT(recalls, 50) << c.name;
  }
}

// Codes come back as they were encoded first, many evictions later.
TEST(Arkvale, RecalledPagesAreTheBytesThatWereEncodedOnce) {
  for (const CodecKind codec : {CodecKind::kQ4, CodecKind::kQ2, CodecKind::kF16}) {
    Text text(options_of(4, 24), Numbers::kRandom, codec);
    Text full(options_of(4, 4000), Numbers::kRandom, codec);
    text.step(90);
    full.step(90);
    std::set<int32_t> away, back;
    for (int i = 0; i < 150; ++i) {
      text.step(1);
      full.step(1);
      const LaneImage all = full.lane().image(), own = text.lane().image();
      const auto bytes = static_cast<size_t>(full.lane().recall()->backup(0).bytes());
      for (size_t page = 0, r = 0; page < all.resident.size(); ++page) {
        const auto encoded = std::span(all.coded_pages).subspan(page * bytes, bytes);
        ASSERT_TRUE(std::ranges::equal(
            encoded, text.lane().recall()->backup(static_cast<int64_t>(page)).copy()));
        const auto number = static_cast<int32_t>(page);
        if (r == own.resident.size() || own.resident[r] != number) {
          away.insert(number);
          continue;
        }
        ASSERT_TRUE(
            std::ranges::equal(encoded, std::span(own.coded_pages).subspan(r++ * bytes, bytes)));
        if (away.contains(number)) back.insert(number);
      }
    }
    EXPECT_GT(back.size(), 10u);
    // Bytes: the arena's are bounded, the backup grows with the text.
    const int64_t page = text.lane().recall()->backup(0).bytes();
    EXPECT_EQ(text.cache().backup_bytes(), 60 * page * std::ssize(text.groups()));
    EXPECT_LT(text.cache().bytes().pages, 8 * page * std::ssize(text.groups()) + 2 * 4 * 128 * 2);
    EXPECT_GT(full.cache().bytes().pages, 60 * page);
  }
}

// A key that only one later query looks for: its page has gone, and is there when it is needed.
TEST(Arkvale, ANeedleIsRecalled) {
  for (const char* digest : {"cuboid_max", "cuboid_center", "cuboid_mean", "sphere_max:4"}) {
    PolicyOptions options = options_of(4, 24);
    options.digest = digest;
    Text text(options, Numbers::kTies);
    text.key_override[33] = 3.0f;  // page 8
    for (int64_t p = 0; p < 200; ++p) text.query_override[p] = -1.0f;
    text.query_override[150] = 1.0f;
    text.step(120);
    const auto holds = [&](int32_t page) {
      const auto pages = text.resident();
      return std::ranges::binary_search(pages, page);
    };
    for (int i = 0; i < 30; ++i) text.step(1);
    EXPECT_FALSE(holds(8)) << digest;
    bool read = false;
    text.step(1, true, -1, [&](const KvGroup& g) {
      if (g.id == 0) read = holds(8);
    });
    EXPECT_TRUE(read) << digest;
  }
}

// Pages of forks are shared until they go; what one recalls is not the other's.
TEST(Arkvale, ForksChooseApartAndImagesGoOnAlike) {
  Text text(options_of(4, 24), Numbers::kRandom, CodecKind::kQ4);
  text.step(61);
  for (int i = 0; i < 11; ++i) text.step(1);
  const auto fork = text.cache().fork();
  const CacheImage image = text.cache().image();
  EXPECT_EQ(fork->image(), image);
  SequenceCache again(text.groups(), text.cache().options(), text.policy(), text.arena());
  again.load(image, "image");
  EXPECT_EQ(again.image(), image);
  EXPECT_EQ(again.bytes().pages, text.cache().bytes().pages);
  EXPECT_EQ(again.backup_bytes(), text.cache().backup_bytes());
  text.cache().swap_out();
  text.cache().swap_in();
  for (int i = 0; i < 40; ++i) text.step(1);
  EXPECT_EQ(fork->image(), image);
  EXPECT_NE(text.cache().image(), image);
}

TEST(Arkvale, ImagesThatContradictThemselvesAreRefused) {
  Text text(options_of(4, 24), Numbers::kRandom);
  text.step(61);
  text.step(30, false);  // a prompt under way
  const CacheImage image = text.cache().image();
  const auto refuses = [&](const char* why, const auto& change) {
    CacheImage bad = image;
    change(bad.groups[0].lanes[0]);
    SequenceCache cache(text.groups(), text.cache().options(), text.policy(), text.arena());
    test::expect_error(ErrorCode::kData, {why}, [&] { cache.load(bad, "image"); });
  };
  refuses("are not all there", [](LaneImage& l) { l.backup.pop_back(); });
  refuses("are not all there", [](LaneImage& l) { l.resident.push_back(9); });
  refuses("in another order", [](LaneImage& l) { std::swap(l.resident[0], l.resident[1]); });
  refuses("in another order", [](LaneImage& l) { l.resident[0] = -1; });
  refuses("are not its own", [](LaneImage& l) { std::swap(l.positions[0], l.positions[1]); });
  refuses("no possible length", [](LaneImage& l) { l.query.pop_back(); });
  refuses("has a query", [](LaneImage& l) { l.query.clear(); });
  SequenceCache other(text.groups(), text.cache().options(), nullptr, text.arena());
  CacheImage bad = image;
  for (auto& group : bad.groups) group.lanes[0].query.clear();
  test::expect_error(ErrorCode::kData, {"backup"}, [&] { other.load(bad, "image"); });
}

// Exempt groups keep every page and need no backup.
TEST(Arkvale, DenseGroupsKeepEverything) {
  PolicyOptions options = options_of(4, 24);
  options.dense_groups = 1;
  Text text(options, Numbers::kRandom);
  text.step(61);
  for (int i = 0; i < 30; ++i) text.step(1);
  EXPECT_EQ(text.lane(0).recall(), nullptr);
  EXPECT_EQ(text.cache().rows(0, 0), 91);
  EXPECT_LE(text.cache().rows(1, 0), 24);
}

TEST(Arkvale, WhatCannotBeIsRefused) {
  const auto groups = kv_groups(test::small_decoder("cla2"));
  const auto refuses = [&](const std::vector<std::string>& why, const auto& change) {
    PolicyOptions o = options_of(16, 256);
    change(o);
    test::expect_error(ErrorCode::kRequest, why, [&] { make_policy(o, groups); });
  };
  using O = PolicyOptions;
  refuses({"budget of 63 rows is 3 pages", "take 64 rows"}, [](O& o) { o.budget = 63; });
  refuses({"--kv-topk of 47 rows leaves no page"}, [](O& o) { o.topk = 47; });
  refuses({"--kv-topk of 256 rows is more than the budget"}, [](O& o) { o.topk = 256; });
  refuses({"'box' is not one of cuboid_max, cuboid_center"}, [](O& o) { o.digest = "box"; });
  refuses({"--kv-digest cuboid_max:5", "divide a page"}, [](O& o) { o.digest = "cuboid_max:5"; });
  refuses({"--kv-digest cuboid_max:", "divide a page"}, [](O& o) { o.digest = "cuboid_max:"; });
  refuses({"--kv-dense-layers 2", "nothing would be bounded"}, [](O& o) { o.dense_groups = 2; });
  refuses({"--kv-select-every 0"}, [](O& o) { o.select_every = 0; });
  refuses({"--kv-window", "no window of query rows"}, [](O& o) { o.window = 3; });
  PolicyOptions o;
  o.name = "h2o";
  o.budget = 50;
  o.topk = 20;
  test::expect_error(ErrorCode::kRequest, {"--kv-topk", "recalls no pages"},
                     [&] { make_policy(o, groups); });
  const auto memory = make_host_memory();
  Arena arena(*memory);
  const std::shared_ptr<const Policy> policy = make_policy(options_of(16, 256), groups);
  const auto cannot = [&](CacheOptions cache, const char* why) {
    test::expect_error(ErrorCode::kRequest, {why},
                       [&] { SequenceCache(groups, cache, policy, arena); });
  };
  cannot({CodecKind::kQ4, CodecKind::kQ4, 8}, "pages of 16 rows");
  cannot({CodecKind::kQ4, CodecKind::kQ4, 16, 4}, "--kv-fp16-first");
  cannot({CodecKind::kQ4, CodecKind::kQ4, 16, 0, 4}, "--kv-fp16-newest");
  SequenceCache cache(groups, {}, policy, arena);
  test::expect_error(ErrorCode::kRequest, {"provisional"}, [&] { cache.set_holding(true); });
}

}  // namespace
}  // namespace ashlar
