#include "train/metrics.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <sstream>

#include "tests/support/files.h"
#include "train/events.h"
#include "train/guards.h"

namespace ashlar {
namespace {

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char b : bytes) out += fmt::format("{:02x}", static_cast<uint8_t>(b));
  return out;
}

TEST(Events, BytesEqualTensorBoards) {
  std::istringstream golden(test::read_text("tests/golden/tensorboard_events.txt"));
  std::string expected;
  for (const std::string& event : {scalar_event(1.5, 300, {{"train/loss", 2.25}, {"lr", -0.5}}),
                                   version_event(0.25), session_start_event(0.25, 7)}) {
    ASSERT_TRUE(std::getline(golden, expected));
    EXPECT_EQ(hex(tf_record(event)), expected);
  }
}

TEST(Events, Crc32cOfTheStandardsCheckString) { EXPECT_EQ(crc32c("123456789"), 0xe3069283u); }

TEST(Events, FilesHoldRecordsOneAfterTheOther) {
  const test::TempDir dir;
  EventWriter fresh(dir / "events", 0), resumed(dir / "events", 5);
  fresh.scalars(1, {{"a", 1.0}});
  // Records are a length, its CRC, the data, its CRC.
  const auto count = [](const std::filesystem::path& path) {
    const std::string bytes = test::read_text(path);
    int records = 0;
    for (size_t at = 0; at < bytes.size(); ++records) {
      at += 16 + static_cast<uint8_t>(bytes.at(at));
      EXPECT_LE(at, bytes.size());
    }
    return records;
  };
  EXPECT_EQ(count(fresh.path()), 2);
  EXPECT_EQ(count(resumed.path()), 2);
  EXPECT_NE(fresh.path().filename().string().find("events.out.tfevents."), std::string::npos);
}

TEST(Metrics, ResumingCutsWhatTheCheckpointDoesNotKnow) {
  const test::TempDir dir;
  const auto path = dir / "metrics.jsonl";
  int64_t position = 0;
  {
    MetricsFile file(path, 0);
    file.append(Node::Map{{"step", 1}});
    position = file.position();
    file.append(Node::Map{{"step", 2}});
  }
  EXPECT_EQ(test::read_text(path), "{\"step\":1}\n{\"step\":2}\n");
  {
    MetricsFile file(path, position);
    file.append(Node::Map{{"step", 3}});
    EXPECT_EQ(file.position(), position * 2);
  }
  EXPECT_EQ(test::read_text(path), "{\"step\":1}\n{\"step\":3}\n");
}

// Part of the file is gone, or all of it: what is whole stays and the log goes on.
TEST(Metrics, AFileThatIsTooShortGoesOnAfterItsWholeLines) {
  const test::TempDir dir;
  const std::filesystem::path path = dir / "metrics.jsonl";
  test::write_text(path, "{\"step\":1}\n{\"st");
  MetricsFile(path, 400).append(Node::Map{{"step", 9}});
  EXPECT_EQ(test::read_text(path), "{\"step\":1}\n{\"step\":9}\n");
  std::filesystem::remove(path);
  MetricsFile(path, 400).append(Node::Map{{"step", 9}});
  EXPECT_EQ(test::read_text(path), "{\"step\":9}\n");
}

// A file system that is full for a while: RLIMIT_FSIZE stands for it.
TEST(Metrics, LinesThatTheDiskRefusesAreKeptUntilThereIsRoom) {
  const test::TempDir dir;
  const auto path = dir / "metrics.jsonl";
  MetricsFile file(path, 0);
  file.append(Node::Map{{"step", 1}});
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const struct rlimit tight { 15, before.rlim_max };  // half of the second line
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  file.append(Node::Map{{"step", 2}});
  file.append(Node::Map{{"step", 3}});
  const int64_t full = file.position();
  const std::string then = test::read_text(path);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, old_handler);
  EXPECT_EQ(full, 11);
  EXPECT_EQ(then, "{\"step\":1}\n");
  file.append(Node::Map{{"step", 4}});
  EXPECT_EQ(file.position(), 44);
  EXPECT_EQ(test::read_text(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
}

// A step that is bad whenever it comes: the good ones before it, taken again after every rewind,
// do not make it forgotten.
TEST(Guards, ARewindThatLeadsBackToTheSameStepEndsTheRun) {
  GuardConfig config;
  config.non_finite = GuardAction::kRewind;
  config.limit = 3;
  Guard guard(config);
  int64_t rewinds = 0;
  for (GuardAction action = GuardAction::kApply; action != GuardAction::kStop; ++rewinds) {
    ASSERT_LE(rewinds, config.limit);
    EXPECT_EQ(guard.judge(8, 1, 1).action, GuardAction::kApply);
    EXPECT_EQ(guard.judge(9, 1, 1).action, GuardAction::kApply);
    Guard resumed(config);
    resumed.restore(guard.state());
    guard = resumed;
    action = guard.judge(10, NAN, 1).action;
  }
  EXPECT_EQ(rewinds, config.limit + 1);
  Guard fresh(config);
  for (int64_t step = 1; step < 20; step += 2) {
    EXPECT_EQ(fresh.judge(step, NAN, 1).action, GuardAction::kRewind);
    EXPECT_EQ(fresh.judge(step, 1, 1).action, GuardAction::kApply);
  }
}

}  // namespace
}  // namespace ashlar
