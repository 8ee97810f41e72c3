#pragma once

#include <signal.h>

namespace ashlar {

/// While alive, SIGINT, SIGTERM and SIGUSR1 (what schedulers send before the time is up) only leave
/// a mark; the second SIGINT or SIGTERM has its usual effect.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, 0: none yet.
  static int received();

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
  struct sigaction user_ {};
};

/// Exit status of a run that a signal ended after it had saved a checkpoint: EX_TEMPFAIL, which
/// schedulers can be told to requeue on.
inline constexpr int kRequeueStatus = 75;

}  // namespace ashlar
