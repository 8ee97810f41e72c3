#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <map>
#include <regex>
#include <thread>

#include "tests/support/files.h"
#include "tests/train/process_runs.h"
#include "tests/train/run_state.h"

// Runs of several ranks, the real command in real processes, whose ranks are killed at random
// moments (while they start and meet, in steps, inside the writing of checkpoints), whose newest
// checkpoints are damaged between two lives, and which go on with --resume auto, some with another
// number of ranks and another ZeRO stage: they end with the bits of a run that nobody disturbed.
// ASHLAR_TORTURE_KILLS: how many kills in all (scripts/torture); ASHLAR_TORTURE_SEED.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

constexpr int64_t kSteps = 24;
constexpr int64_t kTimeoutSeconds = 10;
// Until the last survivor has ended: a rank that never came is waited for until the timeout, a
// silent one for six heartbeats; the rest is a busy machine.
constexpr milliseconds kEndsWithin = 30s;

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

/// How a run is shared; `wanders`: every life has other ranks and another stage.
struct Course {
  int64_t world = 2, zero = 0;
  std::string reduce = "fp32";
  bool wanders = false;

  std::string name() const {
    return wanders ? "1-4 ranks, zero 0-3, ordered"
                   : fmt::format("{} ranks, zero {}, {}", world, zero, reduce);
  }
};

struct Counts {
  std::map<std::string, int64_t> kills;  // by moment
  int64_t two_at_once = 0, lives = 0, runs = 0, damaged = 0, passed_over = 0;
  int64_t survivors = 0, moves = 0;
  double slowest = 0;  // survivor's end after the kill, seconds

  int64_t all() const {
    int64_t sum = 0;
    for (const auto& [moment, n] : kills) sum += n;
    return sum;
  }
  void print(const std::string& title) const {
    fmt::print("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1f} s |\n", title, runs,
               lives, all(), count("start"), count("step"), count("save"), two_at_once, damaged,
               passed_over, survivors, slowest);
    std::fflush(stdout);
  }

 private:
  int64_t count(const char* moment) const {
    const auto found = kills.find(moment);
    return found == kills.end() ? 0 : found->second;
  }
};

class Torture {
 public:
  Torture(const Course& course, uint64_t seed)
      : course_(course), random_(seed), straight_(dir_ / "straight") {
    test::write_data(dir_.path());
    std::string text = test::train_yaml(dir_.path(), straight_, test::kBlockModel);
    replace(text, "steps: 12", fmt::format("steps: {}", kSteps));
    replace(text, "micro_batch: 2", "micro_batch: 1");
    replace(text, "checkpoint: {every: 5", "checkpoint: {every: 2");
    test::write_text(dir_ / "config.yaml", text);
  }

  /// The run that nobody disturbs.
  void walk_straight() {
    test::Life life(course_.world, dir_ / "logs", arguments(straight_, course_.zero));
    for (const test::ProcessEnd& e : life.ends(120s)) ASSERT_EQ(e.status, 0) << e.log;
    metrics_ = test::timeless_metrics(straight_);
    values_ = test::parameters_of(straight_);
    ASSERT_EQ(CheckpointReader(straight_).manifest().position.step, kSteps);
  }

  /// Runs that are killed until there have been `kills`.
  void torture(int64_t kills) {
    while (counts_.all() < kills && !testing::Test::HasFailure()) {
      run_ = dir_ / fmt::format("run{}", counts_.runs++);
      damaged_.clear();
      while (!live(counts_.all() < kills)) {
        if (testing::Test::HasFailure()) return;
      }
      if (testing::Test::HasFailure()) return;
      EXPECT_EQ(CheckpointReader(run_).manifest().position.step, kSteps);
      EXPECT_TRUE(test::parameters_of(run_) == values_) << course_.name() << ": other bits";
      EXPECT_EQ(test::timeless_metrics(run_), metrics_);
      fs::remove_all(run_);
    }
  }

  const Counts& counts() const { return counts_; }

 private:
  static void replace(std::string& text, const std::string& what, const std::string& with) {
    ASSERT_NE(text.find(what), std::string::npos) << what;
    text.replace(text.find(what), what.size(), with);
  }
  uint64_t below(uint64_t bound) { return random_.below(drawn_++, bound); }
  void pause(uint64_t most_microseconds) {
    std::this_thread::sleep_for(std::chrono::microseconds(below(most_microseconds)));
  }
  test::Life::Arguments arguments(const fs::path& run, int64_t zero) const {
    return [=, this](int64_t) -> std::vector<std::string> {
      return {(dir_ / "config.yaml").string(),
              "--output",
              run.string(),
              "--resume",
              "auto",
              "--set",
              fmt::format("distributed.zero={}", zero),
              "--set",
              fmt::format("distributed.timeout={}", kTimeoutSeconds),
              "--set",
              "distributed.reduce=" + course_.reduce};
    };
  }

  bool live(bool with_end);
  std::string reach_moment(const test::Life& life);
  void check_resume(const test::Life& life, const std::optional<fs::path>& newest);
  void check_survivors(const std::vector<test::ProcessEnd>& ends, const std::vector<int64_t>& dead);
  void damage();
  void spoil(const fs::path& checkpoint);
  bool is_damaged(const fs::path& checkpoint) const;

  Course course_;
  Philox random_;
  uint64_t drawn_ = 0;
  test::TempDir dir_;
  fs::path straight_, run_;
  std::string metrics_;
  std::vector<float> values_;
  std::map<fs::path, std::pair<ino_t, std::string>> damaged_;  // manifest's inode and text
  Counts counts_;
};

std::pair<ino_t, std::string> manifest_of(const fs::path& checkpoint) {
  struct stat info {};
  const fs::path path = checkpoint / "manifest.json";
  if (stat(path.c_str(), &info) != 0) return {};
  return {info.st_ino, test::read_text(path)};
}

// Still the damaged one, not one that was written in its place.
bool Torture::is_damaged(const fs::path& checkpoint) const {
  const auto found = damaged_.find(checkpoint.filename());
  return found != damaged_.end() && found->second == manifest_of(checkpoint);
}

// Flips one bit, or cuts the end off, of a random file of a checkpoint.
void Torture::spoil(const fs::path& checkpoint) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(checkpoint)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  const fs::path& file = files[below(files.size())];
  std::string bytes = test::read_text(file);
  const size_t at = below(bytes.size());
  if (below(2) == 0) {
    // Not bit 5, which turns e into E: a manifest that says the same is not damaged.
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(5)));
  } else {
    bytes.resize(at);
  }
  test::write_text(file, bytes);
  damaged_[checkpoint.filename()] = manifest_of(checkpoint);
  ++counts_.damaged;
}

// Of the newest checkpoint, or of all but one; never of the last good one.
void Torture::damage() {
  std::vector<fs::path> good;
  for (const fs::path& path : checkpoint_candidates(run_)) {
    if (fs::exists(path / "manifest.json") && !is_damaged(path)) good.push_back(path);
  }
  if (good.size() < 2) return;
  if (below(3) > 0) return spoil(good.front());
  const size_t spared = below(good.size());
  for (size_t i = 0; i < good.size(); ++i) {
    if (i != spared) spoil(good[i]);
  }
}

// Waits for the moment of the kill; its name.
std::string Torture::reach_moment(const test::Life& life) {
  const auto kind = below(4);
  if (kind == 0) {
    pause(1'500'000);
    return "start";
  }
  if (kind == 1) {
    const auto saving = [&] {
      std::error_code gone;
      for (fs::directory_iterator it(run_ / "checkpoints", gone), end; !gone && it != end;
           it.increment(gone)) {
        if (it->path().extension() == ".partial") return true;
      }
      return false;
    };
    // What a life before left behind is no save of this one.
    life.await([&] { return life.log(0).find("steps ") != std::string::npos; }, 60s);
    if (below(2) == 0) pause(40'000);
    life.await(saving, 60s);
    pause(4'000);
    return "save";
  }
  const fs::path file = run_ / "metrics.jsonl";
  life.await([&] { return life.log(0).find("steps ") != std::string::npos; }, 60s);
  const int64_t known = test::lines_of(file);
  const auto more = static_cast<int64_t>(below(10));
  life.await([&] { return test::lines_of(file) >= known + more; }, 60s);
  pause(15'000);
  return "step";
}

// The newest checkpoint that is whole, and never a damaged one.
void Torture::check_resume(const test::Life& life, const std::optional<fs::path>& newest) {
  const std::string log = life.log(0), text = "resuming from ";
  for (size_t at = 0; (at = log.find("passing over a checkpoint", at)) != std::string::npos; ++at) {
    ++counts_.passed_over;
  }
  const size_t at = log.find(text);
  if (at == std::string::npos) {  // ended before it came to that
    EXPECT_TRUE(!newest || log.find("steps ") == std::string::npos) << log;
    return;
  }
  const fs::path taken = log.substr(at + text.size(), log.find('\n', at) - at - text.size());
  ASSERT_TRUE(newest.has_value()) << log;
  EXPECT_EQ(taken, *newest) << log;
}

// Whether an error is about this rank: lost, not joined ("ranks 1 and 2 of 3 have not joined"), or,
// before ranks know each other, the server of the store.
bool names(const std::string& log, int64_t rank) {
  if (log.find(fmt::format("rank {} (", rank)) != std::string::npos) return true;
  if (rank == 0 && (log.find("is rank 0 running there") != std::string::npos ||
                    log.find("served by rank 0") != std::string::npos)) {
    return true;
  }
  const size_t end = log.find("not joined within");
  if (end == std::string::npos) return false;
  const size_t line = log.rfind('\n', end);
  const std::string missing = log.substr(line + 1, end - line - 1);  // npos + 1 is 0
  return std::regex_search(missing.substr(0, missing.rfind(" of ")),
                           std::regex(fmt::format("\\b{}\\b", rank)));
}

// Every rank that lived ends by itself, in time, with an error that names one of the dead.
void Torture::check_survivors(const std::vector<test::ProcessEnd>& ends,
                              const std::vector<int64_t>& dead) {
  for (size_t r = 0; r < ends.size(); ++r) {
    const test::ProcessEnd& e = ends[r];
    if (std::find(dead.begin(), dead.end(), static_cast<int64_t>(r)) != dead.end()) continue;
    ++counts_.survivors;
    counts_.slowest = std::max(counts_.slowest, e.seconds);
    const std::string who = fmt::format("{}: rank {} after the kill of rank {}:\n{}",
                                        course_.name(), r, fmt::join(dead, ", "), e.log);
    ASSERT_FALSE(e.hung) << who;
    // Killed on the very last steps out, a rank takes nothing away from the others.
    const auto done = newest_checkpoint(run_);
    if (e.status == 0 && done && CheckpointReader(*done).manifest().position.step == kSteps) {
      continue;
    }
    EXPECT_EQ(e.status, 1) << who;
    EXPECT_TRUE(std::any_of(dead.begin(), dead.end(), [&](int64_t d) { return names(e.log, d); }))
        << who;
  }
}

// One life of the run; true when it has come to the end of the run.
bool Torture::live(bool with_end) {
  ++counts_.lives;
  int64_t world = course_.world, zero = course_.zero;
  if (course_.wanders) {
    world = 1 + static_cast<int64_t>(below(4));
    zero = static_cast<int64_t>(below(4));
  }
  const auto newest = fs::exists(run_) ? newest_checkpoint(run_) : std::nullopt;
  EXPECT_FALSE(newest && is_damaged(*newest)) << newest->string();
  test::Life life(world, dir_ / "logs", arguments(run_, zero));
  std::vector<int64_t> dead;
  std::string moment;
  if (with_end) {
    moment = reach_moment(life);
    dead.push_back(static_cast<int64_t>(below(static_cast<uint64_t>(world))));
    if (world > 2 && below(8) == 0) dead.push_back((dead[0] + 1) % world);
    life.mark();
    for (const int64_t r : dead) life.signal(r, SIGKILL);
  }
  const std::vector<test::ProcessEnd> ends = life.ends(with_end ? kEndsWithin : 120s);
  check_resume(life, newest);
  std::erase_if(dead, [&](int64_t r) { return !ends[static_cast<size_t>(r)].killed(); });
  if (dead.empty()) {
    for (const test::ProcessEnd& e : ends) EXPECT_EQ(e.status, 0) << course_.name() << e.log;
    return true;
  }
  ++counts_.kills[moment];
  counts_.two_at_once += dead.size() > 1 ? 1 : 0;
  check_survivors(ends, dead);
  if (below(2) == 0) damage();
  return false;
}

class TortureCourses : public ::testing::TestWithParam<size_t> {};

const std::vector<Course>& courses() {
  static const std::vector<Course> all = {
      {2, 1, "fp32"},    {3, 0, "fp32"},          {4, 2, "fp32"}, {2, 3, "fp32"},
      {3, 2, "ordered"}, {2, 0, "ordered", true}, {4, 1, "bf16"}};
  return all;
}

TEST_P(TortureCourses, EndWithTheBitsOfARunThatNobodyDisturbed) {
  const auto kills = static_cast<size_t>(from_environment("ASHLAR_TORTURE_KILLS", 10));
  const auto seed = static_cast<uint64_t>(from_environment("ASHLAR_TORTURE_SEED", 1));
  const size_t n = courses().size();
  Torture torture(courses()[GetParam()], seed * 100 + GetParam());
  torture.walk_straight();
  if (HasFailure()) return;
  torture.torture(static_cast<int64_t>((kills + n - 1 - GetParam()) / n));
  torture.counts().print(courses()[GetParam()].name());
}

// One test each, so that GTEST_TOTAL_SHARDS can run them side by side (scripts/torture).
INSTANTIATE_TEST_SUITE_P(All, TortureCourses, ::testing::Range(size_t{0}, courses().size()));

}  // namespace
}  // namespace ashlar
