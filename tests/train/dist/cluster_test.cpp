#include "train/dist/cluster.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <regex>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "tests/train/dist/ranks.h"

// Ranks that fail in every way a rank can, and what the others say about it.

namespace ashlar {
namespace {

using test::quick_options;

// A child that hangs ends by its alarm only: far later than this.
constexpr double kNever = 50;

testing::AssertionResult says(const test::RankOutcome& outcome, const std::string& pattern) {
  if (outcome.status == 1 && std::regex_search(outcome.text, std::regex(pattern))) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << "status " << outcome.status << " after " << outcome.seconds << " s: \"" << outcome.text
         << "\" lacks \"" << pattern << "\"";
}

void reduce(Communicator& comm) {
  std::vector<float> data(5000, 1.0F);
  comm.all_reduce(data.data(), 5000, DType::kF32, ReduceOp::kSum)->wait();
}

// Tells the test that ranks are under way, however long a busy machine takes to start them.
class UnderWay {
 public:
  UnderWay() { EXPECT_EQ(pipe(ends_), 0); }
  ~UnderWay() {
    for (const int end : ends_) close(end);
  }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;

  void tell() const { EXPECT_EQ(write(ends_[1], "x", 1), 1); }
  // For `ranks` of them, a minute at most.
  void wait(int64_t ranks) const {
    for (int64_t told = 0; told < ranks; ++told) {
      pollfd end{ends_[0], POLLIN, 0};
      char byte = 0;
      ASSERT_EQ(poll(&end, 1, 60'000), 1) << told << " of " << ranks << " are";
      ASSERT_EQ(read(ends_[0], &byte, 1), 1);
    }
  }

 private:
  int ends_[2] = {-1, -1};
};

// Steps without end, so that whatever happens to a rank happens inside or near a collective.
std::string steps(Cluster& cluster) {
  for (int64_t step = 1;; ++step) {
    cluster.phase(fmt::format("step {}: backward", step));
    reduce(cluster.world());
    usleep(1000);
  }
}

TEST(Cluster, OneProcessNeedsNoNetwork) {
  const auto cluster = Cluster::join(Launch{}, {});
  EXPECT_EQ(cluster->world().size(), 1);
  cluster->store().set("a", "b");
  EXPECT_EQ(cluster->store().get("a"), "b");
  cluster->phase("step 1");
  cluster->check();
  cluster->leave();
}

TEST(Cluster, RanksMeetTalkAndLeave) {
  const auto body = [](Cluster& cluster) {
    const int64_t me = cluster.launch().rank;
    cluster.store().set(fmt::format("hello {}", me), "from " + std::to_string(me));
    const auto other =
        cluster.store().wait(fmt::format("hello {}", (me + 1) % 3), std::chrono::seconds(10));
    EXPECT_EQ(cluster.hosts(), (std::vector<int64_t>{0, 0, 0}));
    EXPECT_FALSE(cluster.store().get("nothing").has_value());
    reduce(cluster.world());
    cluster.check();
    usleep(static_cast<useconds_t>(me * 300'000));  // ranks come to the end at different times
    return other.value_or("nothing");
  };
  test::Ranks ranks(3, test::joined(3, test::free_port(), quick_options(), body));
  const auto all = ranks.outcomes();
  for (size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(all[r].status, 0) << all[r].text;
    EXPECT_EQ(all[r].text, fmt::format("from {}", (r + 1) % 3));
  }
}

TEST(Cluster, AMissingRankIsNamed) {
  ClusterOptions options = quick_options();
  options.timeout = std::chrono::milliseconds(2000);
  const auto join = test::joined(4, test::free_port(), options, steps);
  test::Ranks ranks(4, [&](int64_t rank) { return rank == 2 ? std::string() : join(rank); });
  const auto all = ranks.outcomes();
  for (const size_t r : {0, 1, 3}) {
    EXPECT_TRUE(says(all[r], "rank 2 of 4 has not joined within 2 s; ranks 0, 1 and 3 have"));
    EXPECT_LT(all[r].seconds, kNever);
  }
}

TEST(Cluster, AnotherConfigurationIsAnErrorOnEveryRank) {
  const int64_t port = test::free_port();
  test::Ranks ranks(3, [&](int64_t rank) {
    ClusterOptions options = quick_options();
    options.fingerprint = rank == 1 ? "b" : "a";
    return test::joined(3, port, options, steps)(rank);
  });
  for (const auto& outcome : ranks.outcomes()) {
    EXPECT_TRUE(says(outcome, "^rank 1 has another configuration than rank 0 .*the same configur"));
  }
}

TEST(Cluster, AnotherWorldIsAnErrorOnEveryRank) {
  const int64_t port = test::free_port();
  test::Ranks ranks(2, [&](int64_t rank) {
    const auto cluster = Cluster::join(test::launch_of(rank, 2 + rank, port), [] {
      ClusterOptions options = quick_options();
      options.timeout = std::chrono::milliseconds(1500);
      return options;
    }());
    return std::string("joined");
  });
  // Rank 1 waits for a third rank until rank 0 has compared.
  for (const auto& outcome : ranks.outcomes()) {
    EXPECT_TRUE(says(outcome, "rank 1 has another number of ranks than rank 0"));
  }
}

TEST(Cluster, ARankTwiceIsRefused) {
  const int64_t port = test::free_port();
  test::Ranks ranks(3, [&](int64_t child) {
    if (child == 2) usleep(700'000);
    return test::joined(2, port, quick_options(), [](Cluster& cluster) {
      sleep(2);
      reduce(cluster.world());
      return std::string("done");
    })(std::min<int64_t>(child, 1));
  });
  const auto all = ranks.outcomes();
  EXPECT_EQ(all[0].text, "done");
  EXPECT_EQ(all[1].text, "done");
  EXPECT_TRUE(says(all[2], "rank 1 of the run at 127.0.0.1:[0-9]+ is taken"));
}

class EachRank : public testing::TestWithParam<int64_t> {};

TEST_P(EachRank, AnErrorEndsAllWithItsReason) {
  const int64_t bad = GetParam();
  const auto body = [&](Cluster& cluster) {
    if (cluster.launch().rank != bad) return steps(cluster);
    cluster.phase("step 2: data");
    usleep(500'000);
    throw Error(ErrorCode::kIo, "the disk is full");
  };
  test::Ranks ranks(3, test::joined(3, test::free_port(), quick_options(), body));
  const auto all = ranks.outcomes();
  for (int64_t r = 0; r < 3; ++r) {
    const auto& outcome = all[static_cast<size_t>(r)];
    if (r == bad) {
      EXPECT_EQ(outcome.text, "the disk is full");
    } else {
      EXPECT_TRUE(
          says(outcome, fmt::format("all_reduce of 5000 F32: rank {} \\(.*process [0-9]+\\) "
                                    "ended with an error .*: the disk is full",
                                    bad)));
    }
    EXPECT_LT(outcome.seconds, kNever);
  }
}

void expect_loss(int64_t lost, int signal, const std::string& pattern) {
  const UnderWay under_way;
  const auto body = [&](Cluster& cluster) {
    cluster.phase("step 0: backward");
    reduce(cluster.world());
    under_way.tell();
    return steps(cluster);
  };
  test::Ranks ranks(3, test::joined(3, test::free_port(), quick_options(), body));
  under_way.wait(3);
  usleep(500'000);
  ranks.signal(lost, signal);
  for (int64_t r = 0; r < 3; ++r) {
    if (r == lost) continue;
    const auto outcome = ranks.outcome(r);
    EXPECT_TRUE(says(outcome, fmt::format("step [0-9]+: backward: .*rank {} \\(.*process [0-9]+\\) "
                                          "{}.*it was last in \"step [0-9]+: backward\"",
                                          lost, pattern)));
    EXPECT_LT(outcome.seconds, kNever);
  }
}

TEST_P(EachRank, AKilledRankIsNamed) {
  expect_loss(GetParam(), SIGKILL, "has died: its process is gone");
}

TEST_P(EachRank, AStoppedRankIsNamed) {
  expect_loss(GetParam(), SIGSTOP, "is stopped .*no heartbeat for [0-9.]+ s");
}

TEST_P(EachRank, ASlowRankIsNamed) {
  const int64_t slow = GetParam();
  const auto body = [&](Cluster& cluster) {
    reduce(cluster.world());
    if (cluster.launch().rank != slow) {
      cluster.phase("step 2: backward");
      reduce(cluster.world());
    } else {
      cluster.phase("step 2: data");
      sleep(5);
      cluster.check();
    }
    return std::string("not noticed");
  };
  ClusterOptions options = quick_options();
  options.timeout = std::chrono::milliseconds(2000);
  test::Ranks ranks(3, test::joined(3, test::free_port(), options, body));
  const auto all = ranks.outcomes();
  for (const auto& outcome : all) {
    EXPECT_TRUE(says(outcome, fmt::format("not done within 2.0 s: rank {} \\(.*\\) is alive, but "
                                          "still in \"step 2: data\", behind by 1 collective",
                                          slow)));
  }
}

INSTANTIATE_TEST_SUITE_P(Cluster, EachRank, testing::Values(0, 1, 2));

TEST(Cluster, AKilledRankIsNamedByThoseWhoOnlyCompute) {
  const UnderWay under_way;
  const auto body = [&](Cluster& cluster) {
    under_way.tell();
    while (true) {
      usleep(10'000);
      cluster.check();
    }
    return std::string();
  };
  test::Ranks ranks(2, test::joined(2, test::free_port(), quick_options(), body));
  under_way.wait(2);
  usleep(500'000);
  ranks.signal(1, SIGKILL);
  EXPECT_TRUE(says(ranks.outcome(0), "^rank 1 .*has died"));
}

// Killed anywhere between its first instruction and its first steps, also while ranks meet and
// connect: the others end, and name it.
TEST(Cluster, AKillAtAnyMomentEndsTheOthers) {
  ClusterOptions options = quick_options();
  options.timeout = std::chrono::milliseconds(2500);
  const Philox random(7);
  for (uint64_t i = 0; i < 12; ++i) {
    const auto lost = static_cast<int64_t>(i % 3);
    test::Ranks ranks(3, test::joined(3, test::free_port(), options, steps));
    usleep(static_cast<useconds_t>(random.below(i, 120'000)));
    ranks.signal(lost, SIGKILL);
    for (int64_t r = 0; r < 3; ++r) {
      if (r == lost) continue;
      const auto outcome = ranks.outcome(r);
      EXPECT_TRUE(says(outcome, fmt::format("rank {}", lost)));
      EXPECT_LT(outcome.seconds, kNever);
    }
  }
}

TEST(Cluster, RanksThatDisagreeAreToldSo) {
  const auto body = [](Cluster& cluster) {
    if (cluster.launch().rank == 0) reduce(cluster.world());
    return std::string("left");
  };
  ClusterOptions options = quick_options();
  options.timeout = std::chrono::milliseconds(2000);
  // Leaving has a barrier of its own: both ranks begin one more collective, but not the same.
  test::Ranks ranks(2, test::joined(2, test::free_port(), options, body));
  for (const auto& outcome : ranks.outcomes()) {
    EXPECT_TRUE(says(outcome, "is in another collective, (barrier|all_reduce of 5000 F32)"));
    EXPECT_LT(outcome.seconds, kNever);
  }
}

TEST(Cluster, TheDestructorDoesNotHang) {
  const auto body = [](int64_t rank) {
    return [rank](Cluster& cluster) {
      if (rank == 0) {
        std::vector<float> data(1000);
        const auto work =
            cluster.world().all_reduce(data.data(), 1000, DType::kF32, ReduceOp::kSum);
        usleep(300'000);
        throw std::runtime_error("out of luck");
      }
      cluster.phase("waiting for trouble");
      while (true) {
        usleep(10'000);
        cluster.check();
      }
      return std::string();
    };
  };
  const int64_t port = test::free_port();
  test::Ranks ranks(2, [&](int64_t rank) {
    std::string text;
    try {
      const auto cluster = Cluster::join(test::launch_of(rank, 2, port), quick_options());
      text = body(rank)(*cluster);
    } catch (
        const std::exception& error) {  // the cluster is gone by now, without abort() or leave()
      text = error.what();
    }
    return text;
  });
  EXPECT_EQ(ranks.outcome(0).text, "out of luck");
  EXPECT_NE(ranks.outcome(1).text.find("left the run without an orderly end"), std::string::npos);
}

}  // namespace
}  // namespace ashlar
