#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "tests/data/prepare_support.h"

// Preparation in processes of its own: killed at any moment and started again, and measured.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

PrepareOptions options_from(const Node& node) {
  NodeReader reader(node);
  PrepareOptions o;
  o.inputs = {reader.text("input")};
  o.tokenizer = reader.text("tokenizer");
  o.output = reader.text("output");
  o.shard_tokens = reader.integer("shard_tokens", 1, int64_t{1} << 40);
  o.checkpoint_bytes = reader.integer("checkpoint_bytes", 1, int64_t{1} << 40);
  o.memory = reader.integer("memory", 1, int64_t{1} << 40);
  o.duplicates.kind = reader.boolean_or("near", false) ? Duplicates::kNear : Duplicates::kKeep;
  o.validation_share = reader.number_or("share", 0, 0, 1);
  o.threads = 2;
  reader.finish();
  return o;
}

/// What start() runs in its own process.
TEST(Child, DISABLED_Prepare) {
  const char* request = std::getenv("ASHLAR_TEST_PREPARE");
  ASSERT_NE(request, nullptr);
  Node node = parse_json(request, "request");
  prepare(options_from(node));
  // Of this program alone: what wait4 reports counts the parent's pages of the time of the fork.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) {
      test::write_text(node.find("output")->as_string() + ".peak", line);
    }
  }
}

pid_t start(const Node& request) {
  const std::string text = write_json(request);
  const pid_t child = fork();
  if (child != 0) return child;
  setenv("ASHLAR_TEST_PREPARE", text.c_str(), 1);
  const char* const argv[] = {"test", "--gtest_filter=Child.DISABLED_Prepare",
                              "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr};
  execv("/proc/self/exe", const_cast<char* const*>(argv));
  _exit(127);
}

/// Exit status, or 128 + n when killed by signal n.
int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

constexpr int64_t kMemory = 32 << 20;

struct Place {
  test::TempDir dir;
  Place() { test::write_vocabulary(dir / "tokenizer.json"); }
  Node request(const std::string& output) const {
    return Node::Map{
        {"input", (dir / "in").string()},    {"tokenizer", (dir / "tokenizer.json").string()},
        {"output", (dir / output).string()}, {"shard_tokens", 30000},
        {"checkpoint_bytes", 15000},         {"memory", 64 << 20}};
  }
};

// The kills fall anywhere: between files, inside a shard, a journal, the last rename, the removal
// of what was temporary. In the end every byte is that of the run that nobody disturbed.
TEST(PrepareKill, KilledAgainAndAgainGivesTheSameBytes) {
  const Place s;
  test::write_corpus(s.dir / "in", 600);
  const auto with = [&](const std::string& output) {
    Node request = s.request(output);
    request.set("near", true);
    request.set("share", 0.1);
    return request;
  };
  const auto began = std::chrono::steady_clock::now();
  ASSERT_EQ(wait_for(start(with("whole"))), 0);
  const auto whole = std::chrono::steady_clock::now() - began;
  const auto expected = test::digests(s.dir / "whole");
  ASSERT_GT(expected.size(), 8u);
  const auto microseconds =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(whole).count());
  const Philox random(5);
  int kills = 0;
  for (uint64_t round = 0; round < 12; ++round) {
    const std::string name = fmt::format("out{}", round);
    for (uint64_t attempt = 0; !fs::exists(s.dir / name); ++attempt) {
      ASSERT_LT(attempt, 200u);
      const pid_t child = start(with(name));
      // From at once to a little more than a whole run takes, later ever longer.
      const uint64_t most = microseconds / 2 + attempt * microseconds / 10;
      std::this_thread::sleep_for(
          std::chrono::microseconds(random.below(round * 1000 + attempt, most)));
      kill(child, SIGKILL);
      const int status = wait_for(child);
      ASSERT_TRUE(status == 128 + SIGKILL || status == 0) << status;
      kills += status == 0 ? 0 : 1;
    }
    // A kill after the rename may leave the folder of the journal: the same request says so and
    // cleans up.
    if (fs::exists(s.dir / (name + ".partial") / "journal.json")) {
      EXPECT_EQ(wait_for(start(with(name))), 0);
    }
    EXPECT_FALSE(fs::exists(s.dir / (name + ".partial") / "shards"));
    EXPECT_EQ(test::digests(s.dir / name), expected) << name;
  }
  EXPECT_GE(kills, 12);
}

// Peak memory of the process over that of one with hardly any input stays within the stated bound,
// on text many times larger: in many documents, in a compressed file, in few large documents.
TEST(PrepareMemory, StaysWithinTheStatedBound) {
  const Place s;
  const auto peak = [&](const std::string& name, const std::string& file, const std::string& text,
                        int64_t memory = kMemory) {
    fs::remove_all(s.dir / "in");
    fs::create_directories(s.dir / "in");
    test::write_text(s.dir / "in" / file, text);
    Node request = s.request(name);
    request.set("memory", memory);
    request.set("shard_tokens", int64_t{1} << 28);
    request.set("checkpoint_bytes", 64 << 20);
    EXPECT_EQ(wait_for(start(request)), 0);
    const std::string line = test::read_text(s.dir / (name + ".peak"));  // "VmHWM:  1234 kB"
    const int64_t bytes = 1024 * std::stoll(line.substr(line.find_first_of("0123456789")));
    std::printf("%s: peak %.1f MB for %.1f MB of input\n", name.c_str(),
                static_cast<double>(bytes) / 1e6, static_cast<double>(text.size()) / 1e6);
    return bytes;
  };
  const int64_t base = peak("small", "a.jsonl", test::json_line("some text"));
  std::string part;
  for (uint64_t d = 0; part.size() < 4u << 20; ++d) {
    part += test::json_line(test::random_words(1, d, 200));
  }
  std::string many, large;
  while (many.size() < 5u * kMemory) many += part;
  const std::string document = test::random_words(2, 0, 600000);
  while (large.size() < 3u * kMemory) large += test::json_line(document);
  const auto longest = static_cast<int64_t>(document.size());
  const int64_t for_large = 17 * longest;  // such a line is about the longest allowed
  EXPECT_LE(peak("many", "a.jsonl", many), base + kMemory);
  EXPECT_LE(peak("packed", "a.jsonl.zst", test::zstd(many)), base + kMemory);
  EXPECT_LE(peak("large", "a.jsonl", large, for_large), base + for_large);
}

}  // namespace
}  // namespace ashlar
