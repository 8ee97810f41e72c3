#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/free_port.h"
#include "train/dist/cluster.h"

// Ranks of a run as forked processes of this machine, for tests.

namespace ashlar::test {

/// How a rank ended.
struct RankOutcome {
  int status = -1;   ///< exit status; 128 + signal when a signal ended it
  std::string text;  ///< of the error that ended it, or what it said
  double seconds = 0;
};

Launch launch_of(int64_t rank, int64_t world, int64_t port);

/// Processes that run the same function with different ranks.
class Ranks {
 public:
  /// `body` runs in each child; what it returns is the outcome's text. An exception's text is that
  /// too, with status 1. A child that takes longer than 60 s is killed by SIGALRM.
  Ranks(int64_t world, const std::function<std::string(int64_t rank)>& body);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  void signal(int64_t rank, int number) const;
  /// Waits for the rank to end.
  RankOutcome outcome(int64_t rank);
  std::vector<RankOutcome> outcomes();

 private:
  struct Child {
    pid_t pid = 0;
    int output = -1;
    bool reaped = false;
  };
  std::vector<Child> children_;
  std::chrono::steady_clock::time_point begin_;
};

/// Each rank joins a cluster, runs `body` and leaves; an error is told to the others first.
std::function<std::string(int64_t)> joined(
    int64_t world, int64_t port, const ClusterOptions& options,
    const std::function<std::string(Cluster& cluster)>& body);

/// Short enough for tests, long enough for a busy machine.
inline ClusterOptions quick_options() {
  ClusterOptions options;
  options.timeout = std::chrono::milliseconds(8000);
  options.heartbeat = std::chrono::milliseconds(250);
  return options;
}

}  // namespace ashlar::test
