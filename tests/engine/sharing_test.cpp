// Texts that share pages, wait in host memory, are saved and taken up again, or find no room: none
// of it changes a bit.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/base/rng.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "engine/model/session.h"
#include "tests/engine/feed.h"
#include "tests/support/changed_options.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

using test::feed;
using Tokens = std::vector<int32_t>;

std::vector<CacheOptions> cache_kinds() {
  CacheOptions plain{CodecKind::kQ4, CodecKind::kQ8};
  CacheOptions precise{CodecKind::kQ3, CodecKind::kQ2};
  precise.precise_sinks = 3;
  precise.residual = 20;
  CacheOptions narrow{CodecKind::kF32, CodecKind::kBF16};
  narrow.page_rows = 3;
  return {plain, precise, narrow};
}

std::unique_ptr<Engine> make_engine(const ModelData& model, int64_t prefix_bytes = 0,
                                    int64_t memory_budget = 0, int64_t chunk = 40) {
  EngineOptions options;
  options.threads = 1;
  options.chunk_tokens = chunk;
  options.prefix_bytes = prefix_bytes;
  options.memory_budget = memory_budget;
  return std::make_unique<Engine>(model, options);
}

// Feeds `prompt`, then `rest` token by token; the logits after each of them.
std::vector<std::vector<float>> decode(Engine& engine, Sequence& sequence, const Tokens& prompt,
                                       const Tokens& rest) {
  std::vector<std::vector<float>> out;
  if (!prompt.empty()) out.push_back(feed(engine, sequence, prompt));
  for (const int32_t token : rest) out.push_back(feed(engine, sequence, std::span(&token, 1)));
  return out;
}

// Arkvale is asked of caches of small pages, in one form; the others take any.
bool goes_with(const std::string& policy, const CacheOptions& cache) {
  return policy != "arkvale" || (cache.page_rows == 3 && cache.residual == 0);
}

std::shared_ptr<const Policy> policy_of(const std::string& name, const ModelSpec& spec) {
  PolicyOptions options{name, 20, 2, 4};
  options.page_rows = 3;
  return make_policy(options, kv_groups(spec));
}

// No policy and two others, all of them in turn.
std::vector<std::string> some_policies(size_t turn) {
  const std::vector<std::string> all = policy_names();
  return {"none", "arkvale", all[1 + 2 * turn % (all.size() - 1)],
          all[1 + (2 * turn + 1) % (all.size() - 1)]};
}

TEST(Sharing, ForksGoTheirOwnWays) {
  size_t turn = 0;
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 41);
    const Tokens prompt = test::random_tokens(61, spec.vocab_size, 1);
    const Tokens one = test::random_tokens(23, spec.vocab_size, 2);
    const Tokens two = test::random_tokens(23, spec.vocab_size, 3);
    for (const CacheOptions& cache : cache_kinds()) {
      for (const std::string& policy : some_policies(turn++)) {
        SCOPED_TRACE(name + " " + policy);
        if (!goes_with(policy, cache)) continue;
        const auto engine = make_engine(model);
        const auto alone = [&](const Tokens& rest) {
          const auto sequence = engine->start(cache, policy_of(policy, model.spec));
          auto logits = decode(*engine, *sequence, prompt, rest);
          logits.erase(logits.begin());
          return logits;
        };
        const auto expected_one = alone(one), expected_two = alone(two);
        const auto first = engine->start(cache, policy_of(policy, model.spec));
        feed(*engine, *first, prompt);
        const int64_t before = engine->cache_page_bytes();
        auto second = engine->fork(*first);
        EXPECT_EQ(engine->cache_page_bytes(), before);
        EXPECT_EQ(decode(*engine, *second, {}, two), expected_two);
        EXPECT_EQ(decode(*engine, *first, {}, one), expected_one);
        second.reset();
      }
    }
  }
}

TEST(Sharing, CommonBeginningsChangeNoBit) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 42);
    const Tokens common = test::random_tokens(130, spec.vocab_size, 1);
    const auto text = [&](size_t shared, uint64_t seed) {
      Tokens tokens(common.begin(), common.begin() + static_cast<std::ptrdiff_t>(shared));
      const Tokens own = test::random_tokens(31, spec.vocab_size, seed);
      tokens.insert(tokens.end(), own.begin(), own.end());
      return tokens;
    };
    const Tokens rest = test::random_tokens(9, spec.vocab_size, 7);
    for (const CacheOptions& cache : cache_kinds()) {
      for (const char* policy : {"none", "streaming", "keydiff"}) {
        SCOPED_TRACE(name + " " + policy);
        const auto sharing = make_engine(model, 1 << 20), plain = make_engine(model);
        int64_t taken = 0;
        for (const auto& [shared, seed] :
             {std::pair<size_t, uint64_t>{130, 2}, {130, 3}, {130, 2}, {100, 4}, {17, 5}, {0, 6}}) {
          const Tokens prompt = text(shared, seed);
          const auto expected = plain->start(cache, policy_of(policy, model.spec));
          const auto actual = sharing->start(cache, policy_of(policy, model.spec));
          sharing->share(*actual, "tenant");
          ASSERT_EQ(decode(*sharing, *actual, prompt, rest),
                    decode(*plain, *expected, prompt, rest))
              << shared << " shared, seed " << seed;
          ASSERT_TRUE(actual->cache().image() == expected->cache().image());
          EXPECT_LE(actual->shared_tokens(), static_cast<int64_t>(prompt.size()));
          taken += actual->shared_tokens();
        }
        EXPECT_GT(taken, 0);
        EXPECT_GT(sharing->shared_bytes(), 0);
        EXPECT_LE(sharing->shared_bytes(), 1 << 20);
      }
    }
  }
}

TEST(Sharing, OnlyTheSameTenantAndCacheShare) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 43);
  const Tokens prompt = test::random_tokens(100, model.spec.vocab_size, 1);
  const auto engine = make_engine(model, 1 << 20);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ4};
  const auto shared = [&](const std::string& tenant, const CacheOptions& options,
                          const char* policy) {
    const auto sequence = engine->start(options, policy_of(policy, model.spec));
    engine->share(*sequence, tenant);
    feed(*engine, *sequence, prompt);
    return sequence->shared_tokens();
  };
  EXPECT_EQ(shared("a", cache, "none"), 0);
  EXPECT_EQ(shared("a", cache, "none"), 95);  // six pages of 16, one row is the marker's
  EXPECT_EQ(shared("b", cache, "none"), 0);
  CacheOptions other = cache;
  other.residual = 1;
  EXPECT_EQ(shared("a", other, "none"), 0);
  EXPECT_EQ(shared("a", cache, "streaming"), 95);
  // One lane per head: other pages. The text dropped rows when its last piece was in, so its pages
  // are those of the pieces before.
  EXPECT_EQ(shared("a", cache, "keydiff"), 0);
  EXPECT_EQ(shared("a", cache, "random"), 79);
  // Nor are queries and backups.
  CacheOptions small = cache;
  small.page_rows = 3;
  EXPECT_EQ(shared("a", small, "none"), 0);
  EXPECT_EQ(shared("a", small, "arkvale"), 0);
  // Scores are not kept with pages, so who needs them computes.
  const int64_t kept = engine->shared_bytes();
  EXPECT_EQ(shared("a", cache, "h2o"), 0);
  EXPECT_EQ(engine->shared_bytes(), kept);
}

// Every option of a cache that rows depend on tells pages apart; a limit does not.
TEST(Sharing, EveryOptionOfACacheIsAnotherBeginning) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 43);
  const Tokens prompt = test::random_tokens(100, model.spec.vocab_size, 1);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ4};
  const auto variants = test::changed_options(cache);
  ASSERT_EQ(variants.size(), 7u);
  for (size_t i = 0; i < variants.size(); ++i) {
    const auto engine = make_engine(model, 1 << 20);
    CacheOptions variant = variants[i];
    const bool limit = variant.max_bytes != cache.max_bytes;
    EXPECT_EQ(write_json(describe(variant)) == write_json(describe(cache)), limit)
        << "option " << i;
    if (variant.zip) variant.key_codec = variant.value_codec = CodecKind::kF16;  // as it must be
    int64_t shared = 0;
    for (const CacheOptions& options : {cache, variant}) {
      const auto sequence = engine->start(options, nullptr);
      engine->share(*sequence, "a");
      feed(*engine, *sequence, prompt);
      shared = sequence->shared_tokens();
    }
    EXPECT_EQ(shared, limit ? 95 : 0) << "option " << i;
  }
}

// The index keeps no more than it may, and gives way to texts that need the room.
TEST(Sharing, WhatIsKeptGivesWay) {
  const ModelData model = test::random_model(test::small_decoder(), 44);
  const CacheOptions cache{CodecKind::kF32, CodecKind::kF32};
  const auto small = make_engine(model, 20000);
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const auto sequence = small->start(cache, nullptr);
    small->share(*sequence, "");
    feed(*small, *sequence, test::random_tokens(90, model.spec.vocab_size, seed));
    EXPECT_LE(small->shared_bytes(), 20000);
  }
  EXPECT_GT(small->shared_bytes(), 0);
  EXPECT_EQ(small->cache_page_bytes(), small->shared_bytes());

  // Room for the weights, two chunks of pages (a kind each of raw and encoded ones) and tables.
  const int64_t weights = make_engine(model)->memory().bytes_in_use();
  const auto tight = make_engine(model, 1 << 30, weights + (5 << 20));
  int64_t most = 0;
  for (uint64_t seed = 0; seed < 80; ++seed) {
    const auto sequence = tight->start(cache, nullptr);
    tight->share(*sequence, "");
    feed(*tight, *sequence, test::random_tokens(250, model.spec.vocab_size, seed));
    most = std::max(most, tight->shared_bytes());
  }
  EXPECT_GT(most, 1 << 20);
}

// What is only kept goes at once, what texts use when they end; nobody notices.
TEST(GiveBack, ChunksFollowTheTextsThatUseThem) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 44);
  const Tokens prompt = test::random_tokens(100, model.spec.vocab_size, 1);
  const Tokens one = test::random_tokens(40, model.spec.vocab_size, 2);
  const Tokens two = test::random_tokens(9, model.spec.vocab_size, 3);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ8};
  const auto plain = make_engine(model), engine = make_engine(model, 1 << 20);
  const auto alone = plain->start(cache, nullptr);
  feed(*plain, *alone, prompt);
  const auto expected_one = decode(*plain, *alone, {}, one);
  const auto expected_two = decode(*plain, *alone, {}, two);

  const int64_t weights = engine->memory().bytes_in_use();
  EXPECT_EQ(engine->give_back(1).now, 0) << "there is nothing yet";
  auto text = engine->start(cache, nullptr);
  engine->share(*text, "");
  feed(*engine, *text, prompt);
  ASSERT_GT(engine->shared_bytes(), 0);
  // All of it is asked back while a text uses every chunk.
  const int64_t tables = text->cache().bytes().tables;
  const int64_t chunks = engine->memory().bytes_in_use() - weights - tables;
  GivenBack given = engine->give_back(int64_t{1} << 40);
  EXPECT_EQ(given.now, 0);
  EXPECT_EQ(given.later, chunks);
  EXPECT_EQ(engine->shared_bytes(), 0);
  EXPECT_EQ(decode(*engine, *text, {}, one), expected_one);
  EXPECT_EQ(decode(*engine, *text, {}, two), expected_two);
  // Swapped out and in again it has left the retired chunks.
  text->cache().swap_out();
  EXPECT_LT(engine->memory().bytes_in_use(), weights + Arena::kChunkBytes);
  text->cache().swap_in();
  given = engine->give_back(1);
  EXPECT_EQ(given.now, 0);
  EXPECT_EQ(given.later, Arena::kChunkBytes);
  text.reset();
  EXPECT_EQ(engine->memory().bytes_in_use(), weights);

  // What no text uses comes back at once, and only what is asked for.
  for (const CacheOptions& kind : cache_kinds()) {
    const auto other = engine->start(kind, nullptr);
    engine->share(*other, "");
    feed(*engine, *other, prompt);
  }
  const int64_t kept = engine->shared_bytes(), before = engine->memory().bytes_in_use();
  ASSERT_GE(before, weights + 3 * Arena::kChunkBytes);
  given = engine->give_back(1);
  EXPECT_GE(given.now, Arena::kChunkBytes);
  EXPECT_EQ(given.later, 0);
  EXPECT_EQ(engine->memory().bytes_in_use(), before - given.now);
  EXPECT_LT(engine->shared_bytes(), kept);
  EXPECT_GT(engine->shared_bytes(), 0);
  engine->give_back(int64_t{1} << 40);
  EXPECT_EQ(engine->shared_bytes(), 0);
  EXPECT_EQ(engine->memory().bytes_in_use(), weights);
  test::expect_error(ErrorCode::kInternal, {}, [&] { engine->give_back(0); });
}

// Who finds no room is refused before anything has changed.
TEST(Admission, ATextThatDoesNotFitIsRefusedWhole) {
  for (const auto& spec : {test::small_decoder(), test::small_block(), test::small_windowed()}) {
    const ModelData model = test::random_model(spec, 45);
    const Tokens prompt = test::random_tokens(200, spec.vocab_size, 1);
    const Tokens shorter(prompt.begin(), prompt.begin() + 60);
    CacheOptions cache{CodecKind::kF32, CodecKind::kF32};
    const auto engine = make_engine(model);
    const auto free = engine->start(cache, nullptr);
    const std::vector<float> expected = feed(*engine, *free, shorter);
    const int64_t needed = free->kv_bytes();
    feed(*engine, *free, std::span(prompt).subspan(60));
    ASSERT_GT(free->kv_bytes(), needed);
    cache.max_bytes = free->kv_bytes() - 1;
    const auto limited = engine->start(cache, nullptr);
    const SequenceImage before = engine->image(*limited);
    test::expect_error(ErrorCode::kRequest, {"more rows, its limit is"},
                       [&] { feed(*engine, *limited, prompt); });
    EXPECT_TRUE(engine->image(*limited) == before);
    EXPECT_EQ(feed(*engine, *limited, shorter), expected);
  }
}

// Also where a beginning had been shared already.
TEST(Admission, RefusalsLeaveNoSharedBeginning) {
  for (const auto& spec : {test::small_decoder(), test::small_block()}) {
    const ModelData model = test::random_model(spec, 45);
    const Tokens prompt = test::random_tokens(200, spec.vocab_size, 1);
    CacheOptions cache{CodecKind::kF32, CodecKind::kF32};
    const auto engine = make_engine(model, 1 << 20);
    const auto first = engine->start(cache, nullptr);
    engine->share(*first, "");
    const std::vector<float> expected = feed(*engine, *first, prompt);
    const auto roomy = engine->start(cache, nullptr);
    engine->share(*roomy, "");
    cache.max_bytes = first->kv_bytes() / 2;
    const auto limited = engine->start(cache, nullptr);
    engine->share(*limited, "");
    const SequenceImage before = engine->image(*limited);
    // One item that fits and one that does not: neither is fed.
    const StepItem items[] = {{roomy.get(), prompt, true, nullptr},
                              {limited.get(), prompt, true, nullptr}};
    test::expect_error(ErrorCode::kRequest, {"its limit is"}, [&] { engine->feed(items); });
    EXPECT_TRUE(engine->image(*limited) == before);
    EXPECT_TRUE(engine->image(*roomy) == before);
    EXPECT_EQ(feed(*engine, *roomy, prompt), expected);
    EXPECT_GT(roomy->shared_tokens(), 0);
    const std::span<const int32_t> shorter = std::span(prompt).first(30);
    const auto alone = make_engine(model);
    const auto plain = alone->start({CodecKind::kF32, CodecKind::kF32}, nullptr);
    EXPECT_EQ(feed(*engine, *limited, shorter), feed(*alone, *plain, shorter));
  }
}

TEST(Admission, AMemoryTooSmallIsSaidSo) {
  const ModelData model = test::random_model(test::small_decoder(), 46);
  const int64_t weights = make_engine(model)->memory().bytes_in_use();
  const auto engine = make_engine(model, 0, weights + (1 << 20));
  const auto sequence = engine->start({CodecKind::kF16, CodecKind::kF16}, nullptr);
  const SequenceImage before = engine->image(*sequence);
  test::expect_error(ErrorCode::kResource, {"memory budget", "exhausted", "more needed"}, [&] {
    feed(*engine, *sequence, test::random_tokens(20, model.spec.vocab_size, 1));
  });
  EXPECT_TRUE(engine->image(*sequence) == before);
}

TEST(Admission, ImpossibleCachesAreRefused) {
  const ModelData model = test::random_model(test::small_decoder(), 46);
  const auto engine = make_engine(model);
  const auto refuses = [&](const std::string& fragment, const auto& change) {
    CacheOptions cache{CodecKind::kQ4, CodecKind::kQ4};
    change(cache);
    test::expect_error(ErrorCode::kRequest, {fragment}, [&] { engine->start(cache, nullptr); });
  };
  refuses("pages of 0 rows", [](CacheOptions& c) { c.page_rows = 0; });
  refuses("pages of 5000 rows", [](CacheOptions& c) { c.page_rows = 5000; });
  refuses("must not be negative", [](CacheOptions& c) { c.residual = -1; });
  refuses("must not be negative", [](CacheOptions& c) { c.precise_sinks = -1; });
  refuses("-5 bytes", [](CacheOptions& c) { c.max_bytes = -5; });
  refuses("fp16 would be stored no more precisely", [](CacheOptions& c) {
    c.residual = 8;
    c.value_codec = CodecKind::kF16;
  });
}

class Sessions : public ::testing::Test {
 protected:
  test::TempDir folder_;
  std::filesystem::path path() const { return folder_.path() / "chat.session"; }
};

TEST_F(Sessions, GoOnWithTheSameBits) {
  size_t turn = 0;
  for (const auto& [name, spec] : test::all_small_specs()) {
    const ModelData model = test::random_model(spec, 47);
    const Tokens prompt = test::random_tokens(87, spec.vocab_size, 1);
    const Tokens rest = test::random_tokens(11, spec.vocab_size, 2);
    for (const CacheOptions& cache : cache_kinds()) {
      for (const std::string& policy_name : some_policies(turn++)) {
        if (!goes_with(policy_name, cache)) continue;
        PolicyOptions policy =
            policy_name == "none" ? PolicyOptions{} : PolicyOptions{policy_name, 20, 2, 4};
        policy.page_rows = cache.page_rows;
        SCOPED_TRACE(name + " " + policy.name);
        const SessionOrigin origin{"of this model", cache, policy};
        const auto engine = make_engine(model);
        const auto first = engine->start(cache, make_policy(policy, kv_groups(model.spec)));
        feed(*engine, *first, prompt);
        save_session(*engine, *first, origin, path());
        const auto expected = decode(*engine, *first, {}, rest);
        const auto other = make_engine(model);
        const auto again =
            restore_session(*other, origin, make_policy(policy, kv_groups(model.spec)), path());
        EXPECT_EQ(again->length(), first->length() - 11);
        EXPECT_EQ(decode(*other, *again, {}, rest), expected);
      }
    }
  }
}

// In the middle of a prompt, whose last query rows are still to come, and between decoded rows.
TEST_F(Sessions, KeepWhatPoliciesHaveSeen) {
  for (const ModelSpec& spec : {test::small_decoder("cla2"), test::small_block()}) {
    const ModelData model = test::random_model(spec, 53);
    const int64_t length = spec.block_length();
    const Tokens prompt = test::random_tokens(30 * length, spec.vocab_size, 1);
    const Tokens rest = test::random_tokens(14 * length, spec.vocab_size, 2);
    const size_t cut = prompt.size() - static_cast<size_t>(2 * length) - 1;
    for (const std::string& name : policy_names()) {
      if (name == "none") continue;
      SCOPED_TRACE(name);
      PolicyOptions options{name, 20, 2, 4};
      const bool snaps = name.starts_with("snap") || name == "pyramidkv";
      if (snaps || name == "scissorhands" || name == "kvcrush") options.window = 6;
      CacheOptions cache{CodecKind::kQ8, CodecKind::kQ8};
      if (name == "arkvale") cache.page_rows = options.page_rows = 3;
      const SessionOrigin origin{"m", cache, options};
      const auto policy = [&] { return make_policy(options, kv_groups(spec)); };
      const auto engine = make_engine(model), other = make_engine(model);
      const auto straight = engine->start(origin.cache, policy());
      const auto expected = decode(*engine, *straight, prompt, rest);
      auto sequence = engine->start(origin.cache, policy());
      const auto saved = [&](Engine& next) {
        save_session(*engine, *sequence, origin, path());
        sequence = restore_session(next, origin, policy(), path());
      };
      const StepItem first{sequence.get(), std::span(prompt).first(cut), false, nullptr,
                           static_cast<int64_t>(prompt.size() - cut)};
      engine->feed(std::span(&first, 1));
      if (snaps) {
        EXPECT_GT(sequence->cache().image().groups[0].lanes[0].scored_rows, 0);
      }
      if (name == "arkvale") {
        EXPECT_FALSE(sequence->cache().image().groups[0].lanes[0].query.empty());
      }
      saved(*other);
      EXPECT_EQ(feed(*other, *sequence, std::span(prompt).subspan(cut)), expected[0]);
      for (size_t t = 0; t < rest.size(); ++t) {
        if (t == rest.size() / 2) saved(*other);
        ASSERT_EQ(feed(*other, *sequence, std::span(rest).subspan(t, 1)), expected[t + 1]) << t;
      }
    }
  }
}

TEST_F(Sessions, DamagedAndForeignOnesAreRefused) {
  const ModelData model = test::random_model(test::small_block(), 48);
  const auto engine = make_engine(model);
  const PolicyOptions policy{"h2o", 12, 2, 4};
  const SessionOrigin origin{"m", {CodecKind::kQ4, CodecKind::kQ8}, policy};
  const auto sequence = engine->start(origin.cache, make_policy(policy, kv_groups(model.spec)));
  feed(*engine, *sequence, test::random_tokens(150, model.spec.vocab_size, 1));
  save_session(*engine, *sequence, origin, path());
  const auto restore = [&](const SessionOrigin& from) {
    return restore_session(*engine, from, make_policy(policy, kv_groups(model.spec)), path());
  };
  ASSERT_NO_THROW(restore(origin));
  SessionOrigin other = origin;
  other.model = "n";
  test::expect_error(ErrorCode::kRequest, {"chat.session", "another model, cache or policy"},
                     [&] { restore(other); });
  for (const PolicyOptions& changed : test::changed_options(policy)) {
    other = origin;
    other.policy = changed;
    EXPECT_NE(write_json(describe(changed)), write_json(describe(policy)));
    test::expect_error(ErrorCode::kRequest, {"another model, cache or policy"},
                       [&] { restore(other); });
  }
  for (const CacheOptions& changed : test::changed_options(origin.cache)) {
    other = origin;
    other.cache = changed;
    if (changed.max_bytes != origin.cache.max_bytes) {
      EXPECT_NO_THROW(restore(other)) << "a limit changes no row";
      continue;
    }
    test::expect_error(ErrorCode::kRequest, {"another model, cache or policy"},
                       [&] { restore(other); });
  }

  const std::string whole = read_file(path());
  const Philox rng(9);
  for (uint64_t i = 0; i < 400; ++i) {
    std::string damaged = whole;
    if (i % 4 == 0) {
      damaged.resize(rng.below(3 * i, whole.size()));
    } else {
      damaged[rng.below(3 * i, i % 4 == 1 ? 600 : whole.size())] ^=
          static_cast<char>(1 << rng.below(3 * i + 1, 8));
    }
    write_file_atomically(path(), damaged);
    try {
      restore(origin);
      // A header's padding may differ; nothing else.
      ADD_FAILURE() << "damage " << i << " was not seen";
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kData || error.code() == ErrorCode::kRequest);
      EXPECT_NE(std::string(error.what()).find("chat.session"), std::string::npos) << error.what();
    }
  }
}

// A file whose checksum is right can still tell nonsense: images are checked by themselves.
TEST(Images, NonsenseIsRefused) {
  const ModelData model = test::random_model(test::small_block(), 49);
  const auto engine = make_engine(model);
  CacheOptions cache{CodecKind::kQ4, CodecKind::kQ4};
  cache.page_rows = 4;
  cache.residual = 8;
  cache.precise_sinks = 4;
  const auto sequence = engine->start(cache, policy_of("h2o", model.spec));
  feed(*engine, *sequence, test::random_tokens(150, model.spec.vocab_size, 1));
  const SequenceImage good = engine->image(*sequence);
  const auto resume = [&](const SequenceImage& image) {
    return engine->resume(image, cache, policy_of("h2o", model.spec), "image");
  };
  ASSERT_NO_THROW(resume(good));
  const int64_t before = engine->cache_page_bytes();
  const auto refuses = [&](const char* what, const auto& change) {
    SequenceImage image = good;
    change(image, image.cache.groups[0].lanes[0]);
    SCOPED_TRACE(what);
    test::expect_error(ErrorCode::kData, {"image"}, [&] { resume(image); });
    EXPECT_EQ(engine->cache_page_bytes(), before);
  };
  using Image = SequenceImage;
  refuses("length", [](Image& i, LaneImage&) { ++i.length; });
  refuses("negative length", [](Image& i, LaneImage&) { i.length = -4; });
  refuses("logits", [](Image& i, LaneImage&) { i.next_logits.pop_back(); });
  refuses("pending token", [](Image& i, LaneImage&) { i.pending.front() = 61; });
  refuses("pending tokens", [](Image& i, LaneImage&) { i.pending.push_back(1); });
  refuses("no block", [](Image& i, LaneImage&) { i.block.reset(); });
  refuses("block rows", [](Image& i, LaneImage&) { ++i.block->groups.back().rows; });
  refuses("block floats", [](Image& i, LaneImage&) { i.block->groups.back().keys.pop_back(); });
  refuses("groups", [](Image& i, LaneImage&) { i.cache.groups.pop_back(); });
  refuses("lanes", [](Image& i, LaneImage&) { i.cache.groups[0].lanes.pop_back(); });
  refuses("position", [](Image& i, LaneImage&) { ++i.cache.groups[0].position; });
  refuses("twice", [](Image&, LaneImage& l) { l.positions[5] = l.positions[6]; });
  refuses("negative", [](Image&, LaneImage& l) { l.positions.back() = -1; });
  refuses("beyond", [](Image&, LaneImage& l) { l.positions.back() = 1 << 30; });
  refuses("order", [](Image&, LaneImage& l) { std::swap(l.positions[0], l.positions[1]); });
  refuses("place", [](Image&, LaneImage& l) { std::swap(l.positions[0], l.positions.back()); });
  refuses("counts", [](Image&, LaneImage& l) { ++l.coded; });
  refuses("huge counts", [](Image&, LaneImage& l) { l.late = INT64_MAX; });
  refuses("pages", [](Image&, LaneImage& l) { l.coded_pages.pop_back(); });
  refuses("raw", [](Image&, LaneImage& l) { l.raw.push_back(0); });
  refuses("acted", [](Image& i, LaneImage&) { ++i.cache.groups[0].acted; });
  refuses("negative acted", [](Image& i, LaneImage&) { i.cache.groups[0].acted = -1; });
  refuses("scored", [](Image&, LaneImage& l) { l.scored_rows = 0; });
  refuses("scored beyond", [](Image&, LaneImage& l) { l.scored_end += 100; });
  refuses("more scored than there were", [](Image&, LaneImage& l) { l.scored_rows += 100; });
  refuses("scores", [](Image&, LaneImage& l) { l.scores[0].pop_back(); });
  refuses("buffers", [](Image&, LaneImage& l) { l.scores.pop_back(); });
  refuses("front", [](Image&, LaneImage& l) { l.front = 64; });
}

// Half a pair of tiles is gone from rows of q4: attention would reduce the others differently.
TEST(Images, RowsInFrontGoInWholePairs) {
  const ModelData model = test::random_model(
      test::decoder_variant("heads: 4, kv_heads: 2, head_dim: 8, window: 33", "", "d_ff: 24", ""),
      50);
  const auto engine = make_engine(model);
  for (const auto& [value_codec, whole] :
       {std::pair{CodecKind::kQ8, true}, {CodecKind::kQ4, false}}) {
    CacheOptions cache{CodecKind::kQ4, value_codec};
    cache.page_rows = 64;
    const auto sequence = engine->start(cache, nullptr);
    feed(*engine, *sequence, test::random_tokens(120, model.spec.vocab_size, 1));
    SequenceImage image = engine->image(*sequence);
    for (auto& group : image.cache.groups) {
      for (LaneImage& lane : group.lanes) {
        ASSERT_EQ(lane.front, whole ? 64 : 0);
        if (whole) continue;
        lane.positions.erase(lane.positions.begin(), lane.positions.begin() + 64);
        lane.coded_pages.clear();
        lane.coded = 0;
        lane.front = 64;
      }
    }
    const auto resume = [&] { engine->resume(image, cache, nullptr, "image"); };
    if (whole) {
      EXPECT_NO_THROW(resume());
    } else {
      test::expect_error(ErrorCode::kData, {"image", "released rows"}, resume);
    }
  }
}

}  // namespace
}  // namespace ashlar
