#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

// The real command as the ranks of a run, in real processes, launched by environment variables.

namespace ashlar::test {

/// How one rank of a life of a run ended.
struct ProcessEnd {
  int status = -1;      ///< exit status, or 128 + signal
  bool hung = false;    ///< it had to be killed at the deadline
  double seconds = 0;   ///< after start or `mark`
  std::string log;      ///< what it printed
  bool killed() const;  ///< by SIGKILL
};

/// One life of a run: `world` processes of `ashlar train`. Those that still run at the end of the
/// scope are killed.
class Life {
 public:
  using Arguments = std::function<std::vector<std::string>(int64_t rank)>;
  /// `arguments` behind the binary's name; logs go into `folder`. `prepare` runs in the child
  /// before the program.
  Life(int64_t world, const std::filesystem::path& folder, const Arguments& arguments,
       const std::function<void(int64_t rank)>& prepare = {});
  ~Life();
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  int64_t world() const { return static_cast<int64_t>(children_.size()); }
  void signal(int64_t rank, int number) const;
  /// From now on, ends count seconds.
  void mark() { begin_ = std::chrono::steady_clock::now(); }
  bool running(int64_t rank) const;
  /// Waits until `is` holds; false when a rank ended, or `limit` passed, before.
  bool await(const std::function<bool()>& is, std::chrono::milliseconds limit) const;
  /// Waits for one rank, or all, to end by themselves; kills what is left at the deadline.
  ProcessEnd end(int64_t rank, std::chrono::milliseconds limit);
  std::vector<ProcessEnd> ends(std::chrono::milliseconds limit);
  std::string log(int64_t rank) const;

 private:
  struct Child {
    pid_t pid = 0;
    std::filesystem::path log;
    bool reaped = false;
    int status = -1;
    double seconds = 0;
  };
  bool reap(Child& child) const;
  std::vector<Child> children_;
  std::chrono::steady_clock::time_point begin_;
};

/// Lines of a text file; 0 when it is not there.
int64_t lines_of(const std::filesystem::path& file);

/// metrics.jsonl without what depends on time and place, one line each.
std::string timeless_metrics(const std::filesystem::path& run);

}  // namespace ashlar::test
