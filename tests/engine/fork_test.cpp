// One prompt, read once, goes on under several policies: bit for bit what each gives alone.

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/error.h"
#include "engine/model/engine.h"
#include "tests/engine/feed.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

using test::feed;
using Tokens = std::vector<int32_t>;

std::vector<CacheOptions> cache_kinds() {
  CacheOptions precise{CodecKind::kQ3, CodecKind::kQ2};
  precise.precise_sinks = 3;
  precise.residual = 20;
  CacheOptions narrow{CodecKind::kF32, CodecKind::kBF16};
  narrow.page_rows = 3;
  return {{CodecKind::kQ4, CodecKind::kQ8}, precise, narrow};
}

bool governed(const ModelSpec& spec) {
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime == KvLifetime::kSequence && group.window == 0) return true;
  }
  return false;
}

/// Every policy at some budgets; those too small for one are refused and left out.
std::vector<std::shared_ptr<const Policy>> all_policies(const ModelSpec& spec,
                                                        const CacheOptions& cache) {
  std::vector<std::shared_ptr<const Policy>> out;
  for (const std::string& name : policy_names()) {
    if (name == "arkvale" && cache.residual > 0) continue;  // it cannot have rows in two forms
    for (const int64_t budget : {5, 11, 30, 1000}) {
      PolicyOptions options;
      options.name = name;
      options.budget = budget;
      options.sink = 2;
      options.page_rows = cache.page_rows;
      try {
        out.push_back(make_policy(options, kv_groups(spec)));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kRequest);
      }
      if (name == "none") break;
    }
  }
  return out;
}

std::unique_ptr<Engine> make_engine(const ModelData& model, int64_t memory = 0) {
  EngineOptions options;
  options.threads = 1;
  options.chunk_tokens = 23;
  options.memory_budget = memory;
  return std::make_unique<Engine>(model, options);
}

/// All that can be known of a text: what it holds, what it occupies, what it predicts.
struct State {
  SequenceImage image;
  int64_t bytes;
  bool operator==(const State&) const = default;
};
State state_of(const Engine& engine, const Sequence& sequence) {
  return {engine.image(sequence), sequence.kv_bytes()};
}

// `bases`: policies the prompt is read under. Every policy that reads alike goes on from it.
void compare(const ModelData& model, const CacheOptions& cache, const Tokens& prompt) {
  const Tokens rest = test::random_tokens(14, model.spec.vocab_size, 9);
  const auto engine = make_engine(model);
  const auto policies = all_policies(model.spec, cache);
  std::vector<const Policy*> bases;  // one of those that read alike
  for (const auto& base : policies) {
    const auto alike = [&](const Policy* other) {
      return (other == nullptr) == (base == nullptr) && Engine::reads_alike(base.get(), other);
    };
    if (std::any_of(bases.begin(), bases.end(), alike)) continue;
    bases.push_back(base.get());
    const auto read = engine->start(cache, base);
    feed(*engine, *read, prompt, /*acts=*/false);
    const SequenceImage before = engine->image(*read);
    std::vector<std::unique_ptr<Sequence>> forks, alone;
    for (const auto& policy : policies) {
      if (!Engine::reads_alike(base.get(), policy.get()) || (!base && policy)) continue;
      alone.push_back(engine->start(cache, policy));
      feed(*engine, *alone.back(), prompt);
      forks.push_back(engine->fork(*read, policy));
      ASSERT_EQ(state_of(*engine, *forks.back()), state_of(*engine, *alone.back()));
    }
    ASSERT_FALSE(forks.empty());
    EXPECT_EQ(engine->image(*read), before) << "the prompt stays as it was";
    for (const int32_t token : rest) {
      std::vector<StepItem> items;  // forks go on together
      for (const auto& fork : forks) {
        items.push_back({fork.get(), std::span(&token, 1), true, nullptr});
      }
      engine->feed(items);
      for (size_t i = 0; i < forks.size(); ++i) {
        feed(*engine, *alone[i], std::span(&token, 1));
        ASSERT_EQ(state_of(*engine, *forks[i]), state_of(*engine, *alone[i])) << i;
      }
    }
  }
}

TEST(Fork, APromptReadOnceGoesOnUnderEveryPolicyThatReadsAlike) {
  for (const auto& [name, spec] : test::all_small_specs()) {
    if (!governed(spec)) continue;
    const ModelData model = test::random_model(spec, 43);
    for (const CacheOptions& cache : cache_kinds()) {
      // Prompts that end with a page, a block, a step, and within them; one of the marker alone.
      for (const int64_t tokens : {0, 3, 31, 32, 45, 46}) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, codec_name(cache.key_codec), tokens));
        compare(model, cache, test::random_tokens(tokens, spec.vocab_size, 1));
      }
    }
  }
}

TEST(Fork, WhatWouldDifferIsRefused) {
  const ModelData model = test::random_model(test::small_decoder(), 44);
  const std::vector<KvGroup> groups = kv_groups(model.spec);
  const Tokens prompt = test::random_tokens(20, model.spec.vocab_size, 1);
  const auto engine = make_engine(model);
  const auto start = [&](const char* name, bool acts) {
    auto sequence = engine->start({}, make_policy({name, 9, 2}, groups));
    feed(*engine, *sequence, prompt, acts);
    return sequence;
  };
  const auto refused = [&](const Sequence& sequence, const char* policy, const char* why) {
    test::expect_error(ErrorCode::kRequest, {why}, [&] {
      engine->fork(sequence, make_policy({policy, 9, 2}, groups));
    });
  };
  refused(*start("streaming", false), "h2o", "other scores or lanes");
  refused(*start("h2o", false), "streaming", "other scores or lanes");
  refused(*start("h2o", false), "none", "other scores or lanes");
  refused(*start("none", false), "streaming", "read without a policy");
  refused(*start("streaming", true), "streaming", "where its prompt ends");
  refused(*start("none", true), "none", "where its prompt ends");
  refused(*engine->start({}, nullptr), "none", "has read nothing");
  auto twice = start("streaming", true);  // acted once, then more of a prompt
  feed(*engine, *twice, prompt, false);
  refused(*twice, "streaming", "where its prompt ends");
  const auto fork =
      engine->fork(*start("streaming", false), make_policy({"streaming", 9, 2}, groups));
  refused(*fork, "streaming", "where its prompt ends");
}

// A fork that finds no room leaves nothing behind, and the prompt can still be forked.
TEST(Fork, WithoutRoomNothingIsLeftBehind) {
  const ModelData model = test::random_model(test::small_decoder(), 45);
  const Tokens prompt = test::random_tokens(200, model.spec.vocab_size, 1);
  const auto probe = make_engine(model);
  const int64_t weights = probe->memory().bytes_in_use();
  const auto engine = make_engine(model, weights + (int64_t{10} << 20));
  const auto policy =
      std::shared_ptr<const Policy>(make_policy({"streaming", 40, 2}, kv_groups(model.spec)));
  const auto read = engine->start({}, policy);
  feed(*engine, *read, prompt, false);
  std::vector<std::unique_ptr<Sequence>> forks;
  const SequenceImage before = engine->image(*read);
  bool full = false;
  while (!full && forks.size() < 10000) {
    const int64_t pages = engine->cache_page_bytes();
    try {
      forks.push_back(engine->fork(*read, policy));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResource);
      EXPECT_EQ(engine->cache_page_bytes(), pages);
      full = true;
    }
  }
  ASSERT_TRUE(full);
  ASSERT_FALSE(forks.empty());
  EXPECT_EQ(engine->image(*read), before);
  const SequenceImage first = engine->image(*forks.front());
  forks.clear();
  EXPECT_EQ(engine->image(*engine->fork(*read, policy)), first);
}

}  // namespace
}  // namespace ashlar
