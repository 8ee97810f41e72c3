#include "core/comm/simulated.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/base/error.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

constexpr SimulatedLink kSlow = {0.001, 1e6}, kFast = {0.0001, 1e9};

// A handful of additions of doubles.
testing::AssertionResult same_time(double actual, double expected) {
  return test::within(std::vector<double>{actual}, std::vector<double>{expected},
                      test::reordered<double>(8, std::abs(expected)));
}

struct Simulation {
  SimulatedClock clock = SimulatedClock::manual();
  std::shared_ptr<SimulatedTimeline> timeline;
  std::unique_ptr<Communicator> comm;

  Simulation(int64_t rank, int64_t size, std::optional<SimulatedLink> inside = {},
             int64_t per_node = 1)
      : timeline(
            std::make_shared<SimulatedTimeline>(SimulatedNetwork{kSlow, inside, per_node}, clock)),
        comm(make_simulated_communicator(rank, size, timeline)) {}
};

TEST(Simulated, TimesFollowTheModel) {
  Simulation s(1, 4);
  std::vector<float> part(1000), all(4000);
  s.comm->all_reduce(all.data(), 4000, DType::kF32, ReduceOp::kSum)->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 6 * (0.001 + 4000 / 1e6)));
  s.comm->reduce_scatter(all.data(), part.data(), 1000, DType::kF32, ReduceOp::kSum)->wait();
  s.comm->all_gather(part.data(), all.data(), 1000, DType::kF32)->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 12 * (0.001 + 4000 / 1e6)));
  const double before = s.clock.now();
  s.comm->broadcast(all.data(), 4000, DType::kF32, 0)->wait();
  EXPECT_TRUE(same_time(s.clock.now() - before, 2 * (0.001 + 16000 / 1e6)));
  const double late = s.clock.now();
  s.comm->barrier();
  EXPECT_TRUE(same_time(s.clock.now() - late, 6 * 0.001));
  const auto log = s.timeline->collectives();
  ASSERT_EQ(log.size(), 5U);
  EXPECT_EQ(log[0].kind, "all_reduce");
  EXPECT_EQ(log[1].bytes, 16000);
  EXPECT_EQ(log[4].ranks, 4);
}

TEST(Simulated, ALinkCarriesOneAtATimeBesideTheCaller) {
  Simulation s(0, 2);
  std::vector<double> data(1000);
  const auto first = s.comm->all_reduce(data.data(), 1000, DType::kF64, ReduceOp::kMax);
  const auto second = s.comm->all_reduce(data.data(), 1000, DType::kF64, ReduceOp::kMax);
  const double each = 2 * (0.001 + 4000 / 1e6);
  EXPECT_FALSE(first->done());
  s.clock.sleep_until(1.5 * each);  // computing meanwhile
  EXPECT_TRUE(first->done());
  EXPECT_FALSE(second->done());
  first->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 1.5 * each));
  second->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 2 * each));
  const auto log = s.timeline->collectives();
  EXPECT_TRUE(same_time(log[1].start, log[0].end));
  EXPECT_TRUE(same_time(s.timeline->busy(), 2 * each));
  EXPECT_TRUE(same_time(s.timeline->hidden(), 1.5 * each));
}

TEST(Simulated, EveryOtherRankContributesTheSame) {
  Simulation s(2, 3);
  std::vector<float> all = {1, 2, 3}, part(1);
  s.comm->all_reduce(all.data(), 3, DType::kF32, ReduceOp::kSum)->wait();
  EXPECT_EQ(all, (std::vector<float>{3, 6, 9}));
  s.comm->all_reduce(all.data(), 3, DType::kF32, ReduceOp::kMax)->wait();
  EXPECT_EQ(all, (std::vector<float>{3, 6, 9}));
  s.comm->reduce_scatter(all.data(), part.data(), 1, DType::kF32, ReduceOp::kSum)->wait();
  EXPECT_EQ(part[0], 27);
  s.comm->all_gather(part.data(), all.data(), 1, DType::kF32)->wait();
  EXPECT_EQ(all, (std::vector<float>{27, 27, 27}));
  std::vector<uint16_t> small = {float_to_bfloat(1.5F)};
  s.comm->all_reduce(small.data(), 1, DType::kBF16, ReduceOp::kSum)->wait();
  EXPECT_EQ(bfloat_to_float(small[0]), 4.5F);
  uint8_t byte = 1;
  EXPECT_THROW(s.comm->all_reduce(&byte, 1, DType::kU8, ReduceOp::kSum), Error);
}

TEST(Simulated, GroupsInsideANodeUseItsLink) {
  Simulation s(5, 8, kFast, 4);
  const auto node = s.comm->split(std::vector<int64_t>{4, 5, 6, 7}, "node");
  const auto across = s.comm->split(std::vector<int64_t>{1, 5}, "across");
  EXPECT_EQ(node->rank(), 1);
  EXPECT_EQ(across->size(), 2);
  std::vector<float> data(1000);
  const auto slow = across->all_reduce(data.data(), 1000, DType::kF32, ReduceOp::kMax);
  node->all_reduce(data.data(), 1000, DType::kF32, ReduceOp::kMax)->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 6 * (0.0001 + 1000 / 1e9)));
  EXPECT_FALSE(slow->done());
  slow->wait();
  EXPECT_TRUE(same_time(s.clock.now(), 2 * (0.001 + 2000 / 1e6)));
  EXPECT_TRUE(s.timeline->collectives()[1].inside);
}

TEST(Simulated, OneRankTakesNoTimeAndANonsensicalNetworkIsRefused) {
  Simulation s(0, 1);
  float x = 2;
  s.comm->all_reduce(&x, 1, DType::kF32, ReduceOp::kSum)->wait();
  s.comm->barrier();
  EXPECT_EQ(x, 2);
  EXPECT_EQ(s.clock.now(), 0);
  EXPECT_THROW(SimulatedTimeline({{0, 0}, {}, 1}, SimulatedClock::manual()), Error);
  EXPECT_THROW(SimulatedTimeline({kSlow, {}, 0}, SimulatedClock::manual()), Error);
}

TEST(Simulated, TheRealClockRuns) {
  const auto timeline =
      std::make_shared<SimulatedTimeline>(SimulatedNetwork{kSlow, {}, 1}, SimulatedClock::real());
  const auto comm = make_simulated_communicator(0, 2, timeline);
  float x = 1;
  const auto work = comm->all_reduce(&x, 1, DType::kF32, ReduceOp::kSum);
  const auto begin = std::chrono::steady_clock::now();
  work->wait();
  EXPECT_TRUE(work->done());
  EXPECT_GE(timeline->collectives()[0].end, 2 * kSlow.latency);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace ashlar
