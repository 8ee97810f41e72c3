#pragma once

#include <cstdint>
#include <string>

namespace ashlar {

/// Which process a rank is, told to all other ranks.
struct RankIdentity {
  std::string host;       ///< its name, for messages
  std::string machine;    ///< boot id: equal only on the same running kernel
  std::string network;    ///< network namespace; with `machine` what one host is to the network
  std::string processes;  ///< process namespace
  int64_t pid = 0;
  int64_t started = 0;  ///< clock ticks after boot: tells a process from a later one with its pid

  static RankIdentity of_this_process();
  std::string encode() const;
  /// Throws Error(kIo) for a text that encode() did not write.
  static RankIdentity decode(const std::string& text);

  bool same_network_host(const RankIdentity& other) const {
    return machine == other.machine && network == other.network;
  }
};

enum class ProcessState { kUnknown, kRunning, kStopped, kGone };

/// What the operating system knows of another rank's process; kUnknown on another machine.
ProcessState process_state(const RankIdentity& other, const RankIdentity& self);

}  // namespace ashlar
