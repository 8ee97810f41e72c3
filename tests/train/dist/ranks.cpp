#include "tests/train/dist/ranks.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/error.h"

namespace ashlar::test {

Launch launch_of(int64_t rank, int64_t world, int64_t port) {
  Launch launch;
  launch.launcher = "test";
  launch.rank = launch.local_rank = rank;
  launch.world = launch.local_world = world;
  launch.address = "127.0.0.1";
  launch.port = port;
  return launch;
}

Ranks::Ranks(int64_t world, const std::function<std::string(int64_t)>& body)
    : begin_(std::chrono::steady_clock::now()) {
  for (int64_t rank = 0; rank < world; ++rank) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(ends[0]);
      alarm(60);
      std::string text;
      int status = 0;
      try {
        text = body(rank);
      } catch (const std::exception& error) {
        text = error.what();
        status = 1;
      }
      const auto ignored = write(ends[1], text.data(), text.size());
      static_cast<void>(ignored);
      _exit(status);
    }
    close(ends[1]);
    children_.push_back({pid, ends[0], false});
  }
}

Ranks::~Ranks() {
  for (const Child& child : children_) {
    if (!child.reaped) {
      kill(child.pid, SIGKILL);
      waitpid(child.pid, nullptr, 0);
    }
    close(child.output);
  }
}

void Ranks::signal(int64_t rank, int number) const {
  kill(children_[static_cast<size_t>(rank)].pid, number);
}

RankOutcome Ranks::outcome(int64_t rank) {
  Child& child = children_[static_cast<size_t>(rank)];
  RankOutcome outcome;
  char buffer[4096];
  for (ssize_t n; (n = read(child.output, buffer, sizeof(buffer))) > 0;) {
    outcome.text.append(buffer, static_cast<size_t>(n));
  }
  int status = 0;
  waitpid(child.pid, &status, 0);
  child.reaped = true;
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  return outcome;
}

std::vector<RankOutcome> Ranks::outcomes() {
  std::vector<RankOutcome> all;
  for (size_t r = 0; r < children_.size(); ++r) all.push_back(outcome(static_cast<int64_t>(r)));
  return all;
}

std::function<std::string(int64_t)> joined(int64_t world, int64_t port,
                                           const ClusterOptions& options,
                                           const std::function<std::string(Cluster&)>& body) {
  return [=](int64_t rank) {
    const auto cluster = Cluster::join(launch_of(rank, world, port), options);
    std::string text;
    try {
      text = body(*cluster);
      cluster->leave();
    } catch (const std::exception& error) {
      cluster->abort(error.what());
      throw;
    }
    return text;
  };
}

}  // namespace ashlar::test
