#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "core/io/json.h"
#include "tests/support/files.h"
#include "tests/train/process_runs.h"
#include "tests/train/run_state.h"
#include "train/stop_signals.h"

// What can befall a run of several ranks besides a kill (torture_test.cpp): the real command in
// real processes.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

constexpr auto kLimit = 60s;  // a run that takes longer hangs

class RunFaults : public ::testing::Test {
 protected:
  RunFaults() {
    test::write_data(dir_.path());
    std::string text = test::train_yaml(dir_.path(), dir_ / "unused", test::kBlockModel);
    text.replace(text.find("micro_batch: 2"), 14, "micro_batch: 1");
    test::write_text(dir_ / "config.yaml", text);
  }

  fs::path run(const std::string& name) const { return dir_ / name; }
  /// Arguments of `ashlar train`: in ordered mode, so that ranks do not show in bits.
  Words words(const fs::path& output, const Words& more = {}) const {
    Words all = {(dir_ / "config.yaml").string(), "--output", output.string(),         "--set",
                 "distributed.reduce=ordered",    "--set",    "distributed.timeout=20"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::unique_ptr<test::Life> start(int64_t world, const Words& words) const {
    return std::make_unique<test::Life>(world, dir_ / "logs", [=](int64_t) { return words; });
  }
  /// A life that is expected to end with `status` on every rank.
  void expect_life(int64_t world, const Words& words, int status = 0) const {
    const auto life = start(world, words);
    const auto ends = life->ends(kLimit);
    for (size_t r = 0; r < ends.size(); ++r) {
      EXPECT_EQ(ends[r].status, status) << "rank " << r << ":\n" << ends[r].log;
    }
  }
  static void expect_same_run(const fs::path& a, const fs::path& b) {
    EXPECT_TRUE(test::parameters_of(a) == test::parameters_of(b)) << a << " and " << b;
    EXPECT_EQ(test::timeless_metrics(a), test::timeless_metrics(b));
  }
  static std::function<bool()> lines(const fs::path& run, int64_t n) {
    return [=] { return test::lines_of(run / "metrics.jsonl") >= n; };
  }

  test::TempDir dir_;
};

std::string zero(int64_t stage) { return fmt::format("distributed.zero={}", stage); }

TEST_F(RunFaults, ACheckpointOfAnyRanksAndStageIsTakenUpByAnyOthers) {
  expect_life(1, words(run("straight")));
  for (int64_t stage = 0; stage <= 3; ++stage) {
    const fs::path out = run(fmt::format("run{}", stage));
    const auto go = [&](int64_t world, int64_t z, const std::string& until) {
      expect_life(world, words(out, {"--resume", "auto", "--set", zero(z), "--stop-after", until}));
    };
    go(4, stage, "3");
    go(1, (stage + 1) % 4, "5");
    go(4, (stage + 2) % 4, "8");
    go(3, stage, "10");
    go(4, stage, "0");
    expect_same_run(out, run("straight"));
  }
}

TEST_F(RunFaults, AStoppedRankIsNamedByTheOthers) {
  for (int64_t stopped = 0; stopped < 3; ++stopped) {
    const fs::path out = run(fmt::format("run{}", stopped));
    const auto life = start(3, words(out, {"--set", "train.steps=100000"}));
    ASSERT_TRUE(life->await(lines(out, 3), kLimit)) << life->log(0);
    life->mark();
    life->signal(stopped, SIGSTOP);
    for (int64_t r = 0; r < 3; ++r) {
      if (r == stopped) continue;
      const test::ProcessEnd e = life->end(r, kLimit);
      ASSERT_FALSE(e.hung) << "rank " << r << " hangs after rank " << stopped << " was stopped";
      EXPECT_EQ(e.status, 1) << e.log;
      EXPECT_LT(e.seconds, 20) << "later than distributed.timeout";
      EXPECT_NE(e.log.find(fmt::format("rank {} (", stopped)), std::string::npos) << e.log;
      EXPECT_NE(e.log.find("is stopped (SIGSTOP or a debugger)"), std::string::npos) << e.log;
    }
    // Awake again, it learns that the others have gone, and ends as well.
    life->signal(stopped, SIGCONT);
    const test::ProcessEnd e = life->end(stopped, kLimit);
    EXPECT_FALSE(e.hung) << e.log;
    EXPECT_EQ(e.status, 1) << e.log;
  }
}

TEST_F(RunFaults, MixedConfigurationsAreRefusedByEveryRank) {
  for (const int64_t other : {0, 2}) {
    test::Life life(3, dir_ / "logs", [&](int64_t rank) {
      return words(run("mixed"), rank == other ? Words{"--set", "optimizer.lr=0.5"} : Words{});
    });
    for (const test::ProcessEnd& e : life.ends(kLimit)) {
      EXPECT_EQ(e.status, 2) << e.log;
      const std::string which = other == 0 ? "ranks 1 and 2 have" : "rank 2 has";
      EXPECT_NE(e.log.find(which + " another configuration than rank 0"), std::string::npos)
          << e.log;
    }
    EXPECT_FALSE(fs::exists(run("mixed")));
  }
}

TEST_F(RunFaults, MoreRanksThanMicroBatchesAreRefused) {
  const auto life = start(3, words(run("few"), {"--set", "train.micro_batch=2"}));
  for (const test::ProcessEnd& e : life->ends(kLimit)) {
    EXPECT_EQ(e.status, 2) << e.log;
    EXPECT_NE(e.log.find("3 ranks, but a step has only 2 micro-batches"), std::string::npos)
        << e.log;
  }
  EXPECT_FALSE(fs::exists(run("few")));
}

TEST_F(RunFaults, ASignalToOneRankSavesOnAllAndTheRunGoesOnBitForBit) {
  const Words more = {"--resume", "auto",  "--set", "train.steps=200",
                      "--set",    zero(2), "--set", "checkpoint.every=0"};
  expect_life(2, words(run("straight"), more));
  int64_t rank = 0;
  const fs::path out = run("signalled");
  for (const int signal : {SIGTERM, SIGUSR1, SIGINT, SIGTERM}) {
    const auto known = fs::exists(out) ? test::lines_of(out / "metrics.jsonl") : 0;
    const auto life = start(2, words(out, more));
    ASSERT_TRUE(life->await(lines(out, known + 4), kLimit)) << life->log(0) << life->log(1);
    if (rank < 2) {
      life->signal(rank, signal);
    } else {
      life->signal(0, signal);
      life->signal(1, signal);
    }
    for (const test::ProcessEnd& e : life->ends(kLimit))
      EXPECT_EQ(e.status, kRequeueStatus) << e.log;
    EXPECT_NE(life->log(0).find("--resume auto"), std::string::npos);
    ++rank;
  }
  expect_life(2, words(out, more));
  expect_same_run(out, run("straight"));
}

/// A small disk of its own.
class SmallDisk {
 public:
  SmallDisk(const fs::path& at, int64_t bytes) : at_(at) {
    fs::create_directories(at);
    mounted_ = mount("tmpfs", at.c_str(), "tmpfs", 0, fmt::format("size={}", bytes).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(at_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  /// Until nothing more fits; again, takes what was given back.
  void fill() const {
    std::ofstream out(at_ / "filler", std::ios::binary | std::ios::app);
    const std::string block(4096, 'x');
    while (out.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) continue;
  }
  void free() const { fs::remove(at_ / "filler"); }

 private:
  fs::path at_;
  bool mounted_ = false;
};

// Steps of metrics.jsonl's lines of training steps.
std::vector<int64_t> logged_steps(const fs::path& run) {
  std::istringstream in(test::read_text(run / "metrics.jsonl"));
  std::vector<int64_t> steps;
  for (std::string line; std::getline(in, line);) {
    const Node node = parse_json(line, "metrics.jsonl");
    if (node.find("grad_norm") != nullptr) steps.push_back(node.find("step")->as_int());
  }
  return steps;
}

TEST_F(RunFaults, AFullDiskCostsCheckpointsButNotTheRun) {
  const SmallDisk disk(dir_ / "disk", 16 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "a file system of its own needs root: " << strerror(errno);
  const fs::path out = dir_ / "disk/run";
  const auto life = start(2, words(out, {"--set", "train.steps=1000000", "--set", zero(1), "--set",
                                         "validation.every=1000000"}));
  ASSERT_TRUE(life->await([&] { return newest_checkpoint(out).has_value(); }, kLimit))
      << life->log(0);
  disk.fill();
  const auto has = [&](const std::string& text) {
    return [&life, text] { return life->log(0).find(text) != std::string::npos; };
  };
  ASSERT_TRUE(life->await(has("was NOT written"), kLimit)) << life->log(0) << life->log(1);
  const auto old = newest_checkpoint(out);
  ASSERT_TRUE(old.has_value()) << "the old checkpoint is gone";
  const int64_t step = CheckpointReader(*old).manifest().position.step;
  EXPECT_NE(life->log(0).find("No space left on device"), std::string::npos) << life->log(0);
  // On it goes, with failed saves and without a page for a line of the log.
  const size_t failed = life->log(0).find("was NOT written");
  ASSERT_TRUE(life->await(
      [&] {
        disk.fill();
        return life->log(0).find("was NOT written", failed + 1) != std::string::npos &&
               life->log(0).find("lines are kept in memory") != std::string::npos;
      },
      kLimit))
      << life->log(0) << life->log(1);
  disk.free();
  ASSERT_TRUE(life->await(
      [&] {
        const auto newest = newest_checkpoint(out);
        return newest && CheckpointReader(*newest, Verify::kSizes).manifest().position.step > step;
      },
      kLimit))
      << life->log(0);
  life->signal(1, SIGTERM);
  for (const test::ProcessEnd& e : life->ends(kLimit)) EXPECT_EQ(e.status, kRequeueStatus) << e.log;
  // Nothing is missing from the log.
  const std::vector<int64_t> steps = logged_steps(out);
  for (size_t i = 0; i < steps.size(); ++i) ASSERT_EQ(steps[i], static_cast<int64_t>(i) + 1);
  EXPECT_GT(static_cast<int64_t>(steps.size()), step);
}

TEST_F(RunFaults, GuardsDoTheSameOnAnyRanksAndAfterKills) {
  // So strict that the noise of this small batch is a spike now and then.
  const Words rewinds = {
      "--resume", "auto",           "--set", "guards={spike: rewind, window: 12, z: 3, limit: 50}",
      "--set",    "train.steps=40", "--set", "checkpoint.every=3"};
  Words skips = rewinds;
  skips[3] = "guards={spike: skip, window: 12, z: 3}";
  int number = 0;
  for (const auto& [name, more] : {std::pair("rewind", rewinds), std::pair("skip", skips)}) {
    const fs::path alone = run(fmt::format("alone{}", number));
    const fs::path two = run(fmt::format("two{}", number));
    const fs::path killed = run(fmt::format("killed{}", number++));
    expect_life(1, words(alone, more));
    const std::string event = fmt::format("\"event\":\"{}\"", name);
    EXPECT_NE(test::timeless_metrics(alone).find(event), std::string::npos)
        << test::timeless_metrics(alone);
    expect_life(2, words(two, more));
    expect_same_run(two, alone);
    // Killed right after each of the first interventions.
    for (int64_t kills = 0; kills < 4; ++kills) {
      const auto life = start(2, words(killed, more));
      const std::string said = fmt::format(": {}: ", name);
      if (!life->await([&] { return life->log(0).find(said) != std::string::npos; }, kLimit)) break;
      life->signal(kills % 2, SIGKILL);
      life->ends(kLimit);
    }
    expect_life(2, words(killed, more));
    expect_same_run(killed, alone);
  }
}

TEST_F(RunFaults, GuardsThatCannotHelpStopTheRun) {
  // Weight decay that multiplies the weights by -99 at each step, until nothing is finite. The good
  // steps between checkpoint and bad step must not make a rewind go on for ever.
  const Words hopeless = {"--set", "optimizer.lr=100",        "--set", "optimizer.weight_decay=1",
                          "--set", "schedule.warmup_steps=0", "--set", "checkpoint.every=4",
                          "--set", "train.steps=60"};
  for (const char* const action : {"skip", "rewind", "stop"}) {
    Words more = hopeless;
    more.insert(more.end(), {"--set", fmt::format("guards={{non_finite: {}, limit: 2}}", action)});
    const auto life = start(2, words(run(action), more));
    for (const test::ProcessEnd& e : life->ends(kLimit)) {
      EXPECT_FALSE(e.hung) << action << e.log;
      EXPECT_EQ(e.status, 1) << action << e.log;
      EXPECT_NE(e.log.find("the loss is "), std::string::npos) << e.log;
    }
  }
}

}  // namespace
}  // namespace ashlar
