#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace ashlar {

/// A thread for calls that may never return: when one does not end in time, the thread is abandoned
/// with it (it cannot be stopped) and the caller goes on. Safe for any thread; calls queue up.
class GuardedThread {
 public:
  GuardedThread();
  /// Ends the thread, or abandons it when it is stuck; never waits for a stuck call.
  ~GuardedThread();
  GuardedThread(const GuardedThread&) = delete;
  GuardedThread& operator=(const GuardedThread&) = delete;

  /// Runs `task` on the thread and rethrows what it throws. Returns false, at once from then on,
  /// when it has not ended within `timeout`; `task` must therefore own whatever it touches.
  /// `tick`, if any, is called some times a second meanwhile; what it throws abandons the task too.
  bool run(std::function<void()> task, std::chrono::milliseconds timeout,
           const std::function<void()>& tick = nullptr);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace ashlar
