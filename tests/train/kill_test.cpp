#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/support/files.h"
#include "tests/train/run_state.h"
#include "train/stop_signals.h"

// The real command in a real process: killed at moments that fall anywhere, also inside the writing
// of a checkpoint, and resumed until it is done.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

pid_t start(const std::vector<std::string>& arguments, const fs::path& log) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  execv(argv[0], argv.data());
  _exit(127);
}

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int64_t lines_of(const fs::path& file) {
  if (!fs::exists(file)) return 0;
  const std::string text = test::read_text(file);
  return std::count(text.begin(), text.end(), '\n');
}

// False when the process ended first.
bool wait_for_lines(pid_t child, const fs::path& file, int64_t lines) {
  while (lines_of(file) < lines) {
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT);
    if (info.si_pid == child) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

struct Place {
  test::TempDir dir;
  std::string config(const std::string& run) const {
    const fs::path path = dir / (run + ".yaml");
    std::string text = test::train_yaml(dir.path(), dir / run, test::kBlockModel);
    text.replace(text.find("steps: 12"), 9, "steps: 60");
    text.replace(text.find("every: 5,"), 9, "every: 2,");
    test::write_text(path, text);
    return path.string();
  }
  Place() { test::write_data(dir.path()); }
};

TEST(Kill, ARunKilledAgainAndAgainEndsWithTheSameBits) {
  const Place s;
  const std::string straight = s.config("straight"), killed = s.config("killed");
  ASSERT_EQ(wait_for(start({ASHLAR_TRAIN_BINARY, "train", straight}, s.dir / "log")), 0)
      << test::read_text(s.dir / "log");
  const Philox random(1);
  int kills = 0;
  for (uint64_t attempt = 0; attempt < 200; ++attempt) {
    const pid_t child =
        start({ASHLAR_TRAIN_BINARY, "train", killed, "--resume", "auto"}, s.dir / "log");
    // The file is cut to the checkpoint on resuming; a few steps later, at any moment, comes the
    // end.
    const auto known = static_cast<int64_t>(lines_of(s.dir / "killed/metrics.jsonl"));
    if (!wait_for_lines(child, s.dir / "killed/metrics.jsonl", known + 3)) {
      ASSERT_EQ(wait_for(child), 0) << test::read_text(s.dir / "log");
      break;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(attempt, 20000)));
    kill(child, SIGKILL);
    kills += wait_for(child) == 128 + SIGKILL ? 1 : 0;
  }
  EXPECT_GE(kills, 2);
  EXPECT_EQ(CheckpointReader(s.dir / "killed").manifest().position.step, 60);
  EXPECT_EQ(test::parameters_of(s.dir / "killed"), test::parameters_of(s.dir / "straight"));
  EXPECT_EQ(lines_of(s.dir / "killed/metrics.jsonl"), lines_of(s.dir / "straight/metrics.jsonl"));
}

TEST(Kill, SignalsSaveACheckpointAndSayHowToResume) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    const Place s;
    const std::string config = s.config("run");
    const pid_t child = start({ASHLAR_TRAIN_BINARY, "train", config, "--set", "train.steps=100000",
                               "--set", "checkpoint.every=0"},
                              s.dir / "log");
    ASSERT_TRUE(wait_for_lines(child, s.dir / "run/metrics.jsonl", 2));
    kill(child, signal);
    EXPECT_EQ(wait_for(child), kRequeueStatus);
    const std::string log = test::read_text(s.dir / "log");
    EXPECT_NE(log.find("continue with: ashlar train"), std::string::npos) << log;
    EXPECT_NE(log.find("--resume auto"), std::string::npos);
    EXPECT_GE(CheckpointReader(s.dir / "run").manifest().position.step, 2);
  }
}

TEST(Kill, TwoTrainersDoNotShareAFolder) {
  const Place s;
  const std::string config = s.config("run");
  const pid_t first =
      start({ASHLAR_TRAIN_BINARY, "train", config, "--set", "train.steps=100000"}, s.dir / "log");
  ASSERT_TRUE(wait_for_lines(first, s.dir / "run/metrics.jsonl", 2));
  const pid_t second =
      start({ASHLAR_TRAIN_BINARY, "train", config, "--resume", "auto"}, s.dir / "second");
  EXPECT_EQ(wait_for(second), 2);
  EXPECT_NE(test::read_text(s.dir / "second").find("another process is training"),
            std::string::npos);
  kill(first, SIGTERM);
  EXPECT_EQ(wait_for(first), kRequeueStatus);
}

}  // namespace
}  // namespace ashlar
