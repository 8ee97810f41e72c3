// Engines whose weights and caches lie in one provider, in one budget: what a pool of warm models
// stands on.

#include <gtest/gtest.h>

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

EngineOptions in(std::shared_ptr<MemoryProvider> memory) {
  EngineOptions options;
  options.threads = 1;
  options.prefix_bytes = 1 << 20;
  options.memory = std::move(memory);
  return options;
}

TEST(SharedMemory, EnginesSideBySideAreWhatTheyAreAlone) {
  const ModelData one = test::random_model(test::small_decoder("cla2"), 51);
  const ModelData two = test::random_model(test::small_block(), 52);
  const Tokens text = test::random_tokens(60, one.spec.vocab_size, 1);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ8};
  const auto alone = [&](const ModelData& model) {
    Engine engine(model, in(nullptr));
    return feed(engine, *engine.start(cache, nullptr), text);
  };
  const std::shared_ptr<MemoryProvider> memory = make_host_memory();
  auto first = std::make_unique<Engine>(one, in(memory));
  const int64_t weights = memory->bytes_in_use();
  const auto second = std::make_unique<Engine>(two, in(memory));
  EXPECT_EQ(&first->memory(), &second->memory());
  const int64_t both = memory->bytes_in_use();
  EXPECT_GT(both, weights);
  {
    const auto a = first->start(cache, nullptr), b = second->start(cache, nullptr);
    EXPECT_EQ(feed(*first, *a, text), alone(one));
    EXPECT_EQ(feed(*second, *b, text), alone(two));
    EXPECT_GT(memory->bytes_in_use(), both);
  }
  EXPECT_EQ(memory->bytes_in_use(), both);
  first.reset();
  EXPECT_EQ(memory->bytes_in_use(), both - weights) << "the other engine's stay";
  EXPECT_EQ(feed(*second, *second->start(cache, nullptr), text), alone(two));
}

// What one engine keeps the other has no room for, until it is given back.
TEST(SharedMemory, OneBudgetBoundsThemTogether) {
  const ModelData model = test::random_model(test::small_decoder(), 53);
  const Tokens text = test::random_tokens(60, model.spec.vocab_size, 2);
  const CacheOptions cache{CodecKind::kF32, CodecKind::kF32};
  const int64_t weights = Engine(model, in(nullptr)).memory().bytes_in_use();
  const int64_t budget = 2 * weights + Arena::kChunkBytes + (1 << 20);
  const std::shared_ptr<MemoryProvider> memory = make_host_memory(budget);
  Engine one(model, in(memory)), two(model, in(memory));
  {
    const auto sequence = one.start(cache, nullptr);
    one.share(*sequence, "");
    feed(one, *sequence, text);
  }
  ASSERT_GT(one.shared_bytes(), 0);
  const auto wanted = two.start(cache, nullptr);
  test::expect_error(ErrorCode::kResource, {std::to_string(budget)},
                     [&] { feed(two, *wanted, text); });
  EXPECT_EQ(one.give_back(1).now, Arena::kChunkBytes);
  const auto expected = feed(one, *one.start(cache, nullptr), text);
  one.give_back(1);
  EXPECT_EQ(feed(two, *wanted, text), expected);
}

TEST(SharedMemory, ABudgetBesideItIsRefused) {
  EngineOptions options = in(make_host_memory());
  options.memory_budget = 1 << 20;
  const ModelData model = test::random_model(test::small_decoder(), 54);
  test::expect_error(ErrorCode::kRequest, {"1048576", "handed in"},
                     [&] { Engine(model, options); });
}

}  // namespace
}  // namespace ashlar
