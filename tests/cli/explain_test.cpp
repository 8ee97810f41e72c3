// What --explain-cache says, beside sets of positions kept by hand.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "cli/explain_cache.h"
#include "core/config/config.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar::cli {
namespace {

using Rows = std::set<int32_t>;

Rows held(const Sequence& sequence, int64_t group, int64_t head) {
  const auto positions = sequence.cache().positions(group, head);
  return {positions.begin(), positions.end()};
}

void feed(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens) {
  const StepItem item{&sequence, tokens, true, nullptr};
  engine.feed(std::span(&item, 1));
}

/// Head sets of one group before a step, by head.
struct Before {
  std::vector<Rows> heads;
  int64_t fed = 0;
};

std::map<int64_t, Before> before_step(const Engine& engine, const Sequence& sequence) {
  std::map<int64_t, Before> out;
  for (const KvGroup& group : engine.groups()) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    Before& own = out[group.id];
    own.fed = sequence.cache().position(group.id);
    for (int64_t h = 0; h < group.heads; ++h) own.heads.push_back(held(sequence, group.id, h));
  }
  return out;
}

int64_t of(const Node& row, const char* key) { return row.find(key)->as_int(); }

void check_row(const Node& row, const Sequence& sequence, const Before& before, int64_t step,
               int64_t head) {
  const int64_t group = of(row, "group");
  const Rows now = held(sequence, group, head);
  Rows could = before.heads[static_cast<size_t>(head)];
  for (int64_t p = before.fed; p < sequence.cache().position(group); ++p) {
    could.insert(static_cast<int32_t>(p));
  }
  int64_t evicted = 0;
  for (const int32_t p : could) evicted += now.contains(p) ? 0 : 1;
  EXPECT_EQ(of(row, "step"), step);
  EXPECT_EQ(of(row, "kept"), std::ssize(now));
  EXPECT_EQ(of(row, "evicted"), evicted);
  EXPECT_EQ(of(row, "recalled"), 0);
  const auto rows = static_cast<double>(now.size());
  const auto coded = static_cast<double>(sequence.cache().encoded_rows(group, head));
  EXPECT_DOUBLE_EQ(row.find("bits")->as_double(), (16 * coded + 32 * (rows - coded)) / rows);
}

TEST(Explain, RowsAreWhatHappened) {
  for (const auto& [name, spec] : {std::pair{"gqa", test::small_decoder("cla2")},
                                   {"windows", test::small_windowed()},
                                   {"latent", test::small_latent()},
                                   {"block", test::small_block()}}) {
    const ModelData model = test::random_model(spec, 51);
    for (const char* policy : {"none", "streaming", "h2o"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, policy));
      Engine engine(model, {.threads = 1});
      const std::shared_ptr<const Policy> chosen = make_policy({policy, 9, 2}, engine.groups());
      const auto sequence = engine.start({}, chosen);
      const auto tokens = test::random_tokens(90, spec.vocab_size, 5);
      CacheExplainer explainer(engine, *sequence);
      EXPECT_EQ(explainer.picture(), "");
      size_t seen = 0;
      for (size_t at = 0, step = 0; at < tokens.size(); ++step) {
        const size_t take = at == 0 ? 41 : 1;
        const auto before = before_step(engine, *sequence);
        feed(engine, *sequence, std::span(tokens).subspan(at, take));
        at += take;
        explainer.observe();
        explainer.observe();  // nothing was read since
        const Node rows = explainer.rows();
        const auto& list = rows.as_list();
        for (const auto& [group, own] : before) {
          const bool apart = chosen != nullptr && chosen->needs().per_head &&
                             engine.groups()[static_cast<size_t>(group)].window == 0;
          for (int64_t head = 0; head < (apart ? std::ssize(own.heads) : 1); ++head) {
            ASSERT_LT(seen, list.size());
            EXPECT_EQ(of(list[seen], "group"), group);
            EXPECT_EQ(of(list[seen], "lane"), head);
            check_row(list[seen++], *sequence, own, static_cast<int64_t>(step), head);
          }
        }
        ASSERT_EQ(seen, list.size());
      }
    }
  }
}

// What was there before the first step, as of a session, is neither new nor evicted.
TEST(Explain, BeginsWithWhatIsThere) {
  const ModelData model = test::random_model(test::small_decoder(), 52);
  Engine engine(model, {.threads = 1});
  const auto sequence = engine.start({}, make_policy({"streaming", 9, 2}, engine.groups()));
  const auto tokens = test::random_tokens(50, model.spec.vocab_size, 5);
  feed(engine, *sequence, std::span(tokens).first(40));
  CacheExplainer explainer(engine, *sequence);
  feed(engine, *sequence, std::span(tokens).subspan(40, 3));
  explainer.observe();
  const Node rows = explainer.rows();
  for (const Node& row : rows.as_list()) {
    EXPECT_EQ(of(row, "step"), 0);
    EXPECT_EQ(of(row, "kept"), 9);
    EXPECT_EQ(of(row, "evicted"), 3);
  }
}

TEST(Explain, PicturesShowEveryPosition) {
  const ModelData model = test::random_model(test::small_decoder(), 53);
  for (const int64_t tokens : {0, 1, 17, 40, 47, 48, 49, 120, 250}) {
    Engine engine(model, {.threads = 1});
    CacheOptions cache{CodecKind::kQ4, CodecKind::kQ4};
    cache.precise_sinks = 16;
    const auto sequence = engine.start(cache, make_policy({"streaming", 30, 5}, engine.groups()));
    CacheExplainer explainer(engine, *sequence);
    feed(engine, *sequence, test::random_tokens(tokens, model.spec.vocab_size, 5));
    explainer.observe();
    const std::string picture = explainer.picture();
    for (size_t at = 0; at < picture.size(); at = picture.find('\n', at) + 1) {
      EXPECT_LE(picture.find('\n', at) - at, 80u) << picture;
    }
    const Rows rows = held(*sequence, 0, 0);
    const int64_t fed = tokens + 1;  // and the marker
    const size_t bar = picture.find('|') + 1;
    const std::string signs = picture.substr(bar, picture.find('|', bar) - bar);
    const int64_t each = (fed + std::ssize(signs) - 1) / std::ssize(signs);
    for (int64_t p = 0; p < fed; ++p) {
      const char sign = signs[static_cast<size_t>(p / each)];
      const bool there = rows.contains(static_cast<int32_t>(p));
      EXPECT_TRUE(there ? sign != '.' : sign == '.' || sign == '+') << p << "\n" << picture;
      if (each == 1 && there) {
        const bool raw = p >= fed / 16 * 16;
        EXPECT_EQ(sign, raw ? 'r' : p < 16 ? 'h' : '#') << p << "\n" << picture;
      }
    }
    EXPECT_NE(picture.find(fmt::format("{} of {}, ", rows.size(), fed)), std::string::npos);
  }
}

// Segments of ZipCache: the signs are the sets, and bits count rows of 4 and 2 bits, parameters and
// what waits in fp16.
TEST(Explain, ShowsSegments) {
  const ModelData model = test::random_model(test::small_decoder(), 54);
  Engine engine(model, {.threads = 1});
  CacheOptions cache;
  cache.zip = ZipOptions{0.6, 0.2, 30, 1};
  const auto sequence = engine.start(cache, nullptr);
  CacheExplainer explainer(engine, *sequence);
  feed(engine, *sequence, test::random_tokens(39, model.spec.vocab_size, 5));  // and the marker
  explainer.observe();
  const double d = 8, salient = 24, rows = 40;
  const double bits =
      8 * (salient * (d + 4) + (rows - salient) * (d / 2 + 4) + 10 * d) / (rows * 2 * d);
  const Node list = explainer.rows();
  ASSERT_EQ(list.as_list().size(), 8u);  // four groups of two heads
  for (const Node& row : list.as_list()) EXPECT_DOUBLE_EQ(row.find("bits")->as_double(), bits);
  const std::string picture = explainer.picture(120);
  const size_t bar = picture.find('|') + 1;
  const std::string signs = picture.substr(bar, picture.find('|', bar) - bar);
  EXPECT_EQ(std::ranges::count(signs, '#'), 24) << picture;
  EXPECT_EQ(std::ranges::count(signs, '-'), 16) << picture;
  EXPECT_NE(picture.find("  #  kept, coded as zipcache, 4 bits"), std::string::npos);
  EXPECT_NE(picture.find("  -  kept, coded as zipcache, 2 bits"), std::string::npos);
}

}  // namespace
}  // namespace ashlar::cli
