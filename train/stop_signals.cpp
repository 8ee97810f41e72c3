#include "train/stop_signals.h"

#include <atomic>

namespace ashlar {
namespace {

std::atomic<int> received_signal{0};

}  // namespace

StopSignals::StopSignals() {
  received_signal = 0;
  struct sigaction action {};
  action.sa_handler = [](int signal) { received_signal = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
  // Repeated warnings of a scheduler must not kill.
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, &user_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
  sigaction(SIGUSR1, &user_, nullptr);
}

int StopSignals::received() { return received_signal; }

}  // namespace ashlar
