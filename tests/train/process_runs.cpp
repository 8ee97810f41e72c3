#include "tests/train/process_runs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "core/io/json.h"
#include "tests/support/files.h"
#include "tests/support/free_port.h"

namespace ashlar::test {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

bool ProcessEnd::killed() const { return status == 128 + SIGKILL; }

namespace {

void set_variable(const char* name, int64_t value) {
  setenv(name, std::to_string(value).c_str(), 1);
}

}  // namespace

Life::Life(int64_t world, const fs::path& folder, const Arguments& arguments,
           const std::function<void(int64_t)>& prepare)
    : begin_(Clock::now()) {
  fs::create_directories(folder);
  const int64_t port = free_port();
  for (int64_t rank = 0; rank < world; ++rank) {
    // Another build of the command can be tried without building this.
    const char* other = std::getenv("ASHLAR_BINARY");
    std::vector<std::string> words = {other != nullptr ? other : ASHLAR_TRAIN_BINARY, "train"};
    for (const std::string& word : arguments(rank)) words.push_back(word);
    const fs::path log = folder / fmt::format("rank{}.log", rank);
    fs::remove(log);  // a child that is killed at once would leave that of an earlier life
    const pid_t pid = fork();
    if (pid != 0) {
      children_.push_back({pid, log, false, -1, 0});
      continue;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_variable("RANK", rank);
    set_variable("WORLD_SIZE", world);
    set_variable("LOCAL_RANK", rank);
    set_variable("LOCAL_WORLD_SIZE", world);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_variable("MASTER_PORT", port);
    // More ranks than cores: threads that spin would take each other's time.
    setenv("GOMP_SPINCOUNT", "1000", 1);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    if (prepare) prepare(rank);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
}

Life::~Life() {
  for (Child& child : children_) {
    if (child.reaped) continue;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
  }
}

void Life::signal(int64_t rank, int number) const {
  const Child& child = children_[static_cast<size_t>(rank)];
  if (!child.reaped) kill(child.pid, number);
}

bool Life::running(int64_t rank) const {
  const Child& child = children_[static_cast<size_t>(rank)];
  if (child.reaped) return false;
  siginfo_t info{};
  waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG | WNOWAIT);
  return info.si_pid != child.pid;
}

bool Life::await(const std::function<bool()>& is, std::chrono::milliseconds limit) const {
  const auto deadline = Clock::now() + limit;
  while (!is()) {
    for (int64_t r = 0; r < world(); ++r) {
      if (!running(r)) return false;
    }
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

bool Life::reap(Child& child) const {
  if (child.reaped) return true;
  int status = 0;
  if (waitpid(child.pid, &status, WNOHANG) != child.pid) return false;
  child.reaped = true;
  child.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  child.seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  return true;
}

ProcessEnd Life::end(int64_t rank, std::chrono::milliseconds limit) {
  Child& child = children_[static_cast<size_t>(rank)];
  ProcessEnd result;
  for (const auto deadline = Clock::now() + limit; !reap(child);) {
    if (Clock::now() > deadline && !result.hung) {
      result.hung = true;
      kill(child.pid, SIGKILL);
    }
    for (Child& other : children_) reap(other);  // so that their times are right
    std::this_thread::sleep_for(2ms);
  }
  result.status = child.status;
  result.seconds = child.seconds;
  result.log = log(rank);
  return result;
}

std::vector<ProcessEnd> Life::ends(std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  std::vector<ProcessEnd> all;
  for (int64_t r = 0; r < world(); ++r) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    all.push_back(end(r, std::max(left, 0ms)));
  }
  return all;
}

std::string Life::log(int64_t rank) const {
  const fs::path& path = children_[static_cast<size_t>(rank)].log;
  return fs::exists(path) ? read_text(path) : "";
}

int64_t lines_of(const fs::path& file) {
  if (!fs::exists(file)) return 0;
  const std::string text = read_text(file);
  return std::count(text.begin(), text.end(), '\n');
}

std::string timeless_metrics(const fs::path& run) {
  std::istringstream in(read_text(run / "metrics.jsonl"));
  std::string out;
  for (std::string line; std::getline(in, line);) {
    Node node = parse_json(line, "metrics.jsonl");
    std::erase_if(node.as_map(), [](const auto& entry) {
      return entry.first == "tokens_per_second" || entry.first == "data_wait" ||
             entry.first == "communication_wait" || entry.first == "memory_bytes" ||
             entry.first == "mfu";
    });
    out += write_json(node) + "\n";
  }
  return out;
}

}  // namespace ashlar::test
