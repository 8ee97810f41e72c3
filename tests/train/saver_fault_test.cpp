#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/rng.h"
#include "tests/support/tolerance.h"
#include "tests/train/checkpoint_fixture.h"

// What may go wrong while a checkpoint is written: the training must go on, and the checkpoints
// there were must stay.

// libhdf5 keeps what belonged to a file that a full disk kept it from closing.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Outcome = CheckpointSaver::Outcome;

const auto kShort = [](SaverOptions& options) { options.timeout = 300ms; };

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Nothing but the checkpoint of `step`, whole.
void expect_only(const fs::path& run, int64_t step) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    names.push_back(entry.path().filename().string());
  }
  EXPECT_EQ(names, std::vector<std::string>{fmt::format("step_{:08}", step)});
  EXPECT_EQ(CheckpointReader(run).manifest().position.step, step);
}

TEST(SaverFaults, ASilentRankIsNamedAndTheNextSaveIsNotStopped) {
  const test::TempDir run;
  ASSERT_TRUE(test::save_step(run.path(), 1, 3)[0].ok);
  LocalStore store;
  const test::LogCapture log;
  test::on_ranks(3, [&](int64_t rank) {
    SaverOptions options = test::saver_options(run.path(), rank, 3);
    options.timeout = 400ms;
    CheckpointSaver saver(options, store);
    for (const int64_t step : {2, 3}) {
      Snapshot snapshot;
      test::add_share(snapshot, "parameters/a", {7, 5}, rank, 3, [](int64_t) { return 1.0f; });
      // In its first save rank 2 speaks of another step, so that nothing of step 2 ever comes.
      saver.save(test::manifest_at(rank == 2 && step == 2 ? 99 : step), std::move(snapshot));
      const Outcome outcome = saver.finish().at(0);
      if (step == 2) {
        EXPECT_FALSE(outcome.ok);
        const char* const reason =
            rank == 2 ? "rank 0 did not say" : "rank 2: did not report within";
        EXPECT_TRUE(has(outcome.reason, reason)) << outcome.reason;
      }
      if (step == 2 && rank != 2) std::this_thread::sleep_for(800ms);  // rank 2 waits twice as long
      EXPECT_EQ(outcome.ok, step == 3) << outcome.reason;
    }
  });
  EXPECT_TRUE(has(log.text(), "step 2 was NOT written: rank 2")) << log.text();
  EXPECT_TRUE(has(log.text(), "step_00000001")) << log.text();
  EXPECT_TRUE(has(log.text(), "[error]")) << log.text();
  EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 3);
}

TEST(SaverFaults, RanksWithoutASharedFolderAreTold) {
  const test::TempDir run, elsewhere;
  ASSERT_TRUE(test::save_step(run.path(), 1, 2)[0].ok);
  const auto outcomes = test::save_step(run.path(), 2, 2, [&](SaverOptions& options) {
    kShort(options);
    if (options.rank == 1) options.run = elsewhere.path();
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_FALSE(outcome.ok);
    EXPECT_TRUE(has(outcome.reason, "rank 1") && has(outcome.reason, "one shared folder"))
        << outcome.reason;
  }
  expect_only(run.path(), 1);
}

TEST(SaverFaults, AFolderThatIsGoneIsNotMadeAnew) {
  const test::TempDir dir;
  const fs::path run = dir / "run", other = dir / "other";
  fs::create_directories(other);
  const auto all = test::save_step(run, 2, 2, kShort);
  EXPECT_FALSE(fs::exists(run));
  EXPECT_TRUE(has(all[0].reason, "rank 0") && has(all[0].reason, "is gone")) << all[0].reason;
  EXPECT_TRUE(has(all[1].reason, "rank 1") && has(all[1].reason, "is gone")) << all[1].reason;
  const auto one = test::save_step(other, 2, 2, [&](SaverOptions& options) {
    kShort(options);
    if (options.rank == 1) options.run = run;
  });
  for (const Outcome& outcome : one) {
    EXPECT_TRUE(has(outcome.reason, "rank 1") && !has(outcome.reason, "rank 0")) << outcome.reason;
  }
  EXPECT_TRUE(fs::is_empty(other / "checkpoints"));
}

TEST(SaverFaults, GivingUpDoesNotWaitForOthers) {
  const test::TempDir run;
  LocalStore store;
  const auto start = std::chrono::steady_clock::now();
  {
    SaverOptions options = test::saver_options(run.path(), 0, 2);
    options.timeout = 600s;
    CheckpointSaver saver(options, store);
    Snapshot snapshot;
    test::add_share(snapshot, "parameters/a", {7, 5}, 0, 2, [](int64_t) { return 1.0f; });
    saver.save(test::manifest_at(2), std::move(snapshot));
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
  EXPECT_TRUE(fs::is_empty(run.path() / "checkpoints"));
}

// A snapshot of 2 MiB per rank.
std::vector<Outcome> save_large(const fs::path& run, int64_t step, int64_t world) {
  LocalStore store;
  std::vector<Outcome> outcomes(static_cast<size_t>(world));
  test::on_ranks(world, [&](int64_t rank) {
    CheckpointSaver saver(test::saver_options(run, rank, world), store);
    Snapshot snapshot;
    test::add_share(snapshot, "parameters/a", {world, 512, 1024}, rank, world,
                    [&](int64_t) { return static_cast<float>(step); });
    saver.save(test::manifest_at(step), std::move(snapshot));
    outcomes[static_cast<size_t>(rank)] = saver.finish().at(0);
  });
  return outcomes;
}

TEST(SaverFaults, AFileThatMayNotGrowLeavesTheOldCheckpoint) {
  const test::TempDir run;
  ASSERT_TRUE(test::save_step(run.path(), 1, 2)[0].ok);
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  for (const rlim_t limit : {rlim_t{0}, rlim_t{1000}, rlim_t{100'000}, rlim_t{2'097'200}}) {
    const rlimit small{limit, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    const auto outcomes = save_large(run.path(), 2, 2);
    setrlimit(RLIMIT_FSIZE, &before);
    for (const Outcome& outcome : outcomes) {
      EXPECT_FALSE(outcome.ok) << limit;
      EXPECT_TRUE(has(outcome.reason, "rank_00000.h5")) << outcome.reason;
      EXPECT_TRUE(has(outcome.reason, "File too large")) << outcome.reason;
    }
    expect_only(run.path(), 1);
  }
  const auto outcomes = save_large(run.path(), 2, 2);
  EXPECT_TRUE(outcomes[0].ok) << outcomes[0].reason;
}

TEST(SaverFaults, AFullDiskLeavesTheOldCheckpoint) {
  const test::TempDir dir;
  const fs::path disk = dir / "disk";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=3m") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root";
  }
  const test::LogCapture log;
  EXPECT_TRUE(test::save_step(disk, 1, 2)[0].ok);
  for (const Outcome& outcome : save_large(disk, 2, 2)) {
    EXPECT_FALSE(outcome.ok);
    EXPECT_TRUE(has(outcome.reason, "No space left on device")) << outcome.reason;
    EXPECT_TRUE(has(outcome.reason, "rank_0000")) << outcome.reason;
  }
  EXPECT_TRUE(has(log.text(), "No space left on device")) << log.text();
  expect_only(disk, 1);
  EXPECT_TRUE(save_large(disk, 3, 1)[0].ok);  // what the failed files took is free again
  EXPECT_EQ(CheckpointReader(disk).manifest().position.step, 3);
  EXPECT_EQ(umount(disk.c_str()), 0);  // nothing is held open
}

// Saves steps for ever, keeping one checkpoint alone, every other step twice.
[[noreturn]] void save_for_ever(const fs::path& run, int64_t from, int64_t world) {
  spdlog::set_level(spdlog::level::off);
  for (int64_t step = from;; ++step) {
    for (int64_t again = 0; again <= step % 2; ++again) {
      test::save_step(run, step, world, [](SaverOptions& options) { options.keep = 1; });
    }
  }
}

TEST(SaverFaults, KilledAtAnyMomentTheNewestCompleteOneLoads) {
  for (const int64_t world : {1, 3}) {
    const test::TempDir run;
    ASSERT_TRUE(test::save_step(run.path(), 1, world)[0].ok);
    const Philox random(static_cast<uint64_t>(world));
    int64_t newest = 1, before = 1;
    uint64_t window = 60'000;  // µs; wide enough, on this machine, to reach the ends of saves
    for (uint64_t attempt = 0; attempt < 40 || (newest < 6 && attempt < 400); ++attempt) {
      const pid_t child = fork();
      if (child == 0) save_for_ever(run.path(), newest, world);
      std::this_thread::sleep_for(std::chrono::microseconds(random.below(attempt, window)));
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
      const test::LogCapture log;
      const CheckpointReader reader(run.path());
      EXPECT_EQ(log.text(), "");  // nothing was passed over
      const int64_t step = reader.manifest().position.step;
      EXPECT_GE(step, newest);
      newest = step;
      std::vector<float> out(35), expected(35, static_cast<float>(step));
      reader.read("parameters/a", out);
      EXPECT_TRUE(test::within(out, expected, test::exact()));
      if (attempt % 8 == 7 && std::exchange(before, newest) == newest) window *= 2;
    }
    EXPECT_GT(newest, 5);
  }
}

}  // namespace
}  // namespace ashlar
