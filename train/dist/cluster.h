#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/comm/communicator.h"
#include "core/comm/guard.h"
#include "core/comm/store.h"
#include "train/dist/launch.h"

namespace ashlar {

struct ClusterOptions {
  std::chrono::milliseconds timeout{300'000};  ///< to join, and of a collective that is waited for
  std::chrono::milliseconds heartbeat{1'000};  ///< a rank silent for six of them is lost
  std::string fingerprint;                     ///< of the configuration; the same on every rank
};

/// One rank's view of a run of many processes: who the others are, how to talk to them, and whether
/// they still live. It never hangs: whatever waits for another rank throws Error(kIo) when that one
/// has ended with an error, is dead, stopped, cut off, or later than the timeout; the message names
/// the rank with its host, process and last phase.
///
/// After any Error from here (or from a communicator), the rank has to end: call abort() with its
/// reason, report it, and leave the process with _exit. Threads may be stuck in the network and
/// hold buffers of collectives, so that an ordinary exit could hang or crash. The destructor does
/// not hang: without leave() it leaks what may be stuck.
class Cluster {
 public:
  /// Meets the other ranks. A world of 1 opens no sockets; otherwise the process ignores SIGPIPE
  /// from now on, unless it has a handler. Throws Error(kIo) naming the ranks that have not come
  /// within the timeout, or when the store cannot be reached or served; Error(kRequest) on every
  /// rank, naming which differ, when fingerprints, versions or world sizes do, when two processes
  /// claim one rank, or when rank 0's address is of no use to other hosts.
  static std::unique_ptr<Cluster> join(const Launch& launch, const ClusterOptions& options);
  virtual ~Cluster() = default;

  virtual const Launch& launch() const = 0;
  /// All ranks, over Gloo.
  virtual Communicator& world() = 0;
  /// For other communicators of this run; null in a world of 1.
  virtual std::shared_ptr<CollectiveGuard> guard() = 0;
  virtual KeyValueStore& store() = 0;
  /// By rank, the number of its host: 0 for that of rank 0, counted in order of appearance.
  virtual const std::vector<int64_t>& hosts() const = 0;

  /// What this rank does from now on, such as "step 17: backward": for the messages of others.
  /// Cheap.
  virtual void phase(std::string_view what) = 0;
  /// Throws when another rank has ended with an error, or is lost. Cheap.
  virtual void check() = 0;
  /// Calls `observer` from other threads for every collective that has run, until it is replaced.
  virtual void observe(CollectiveObserver observer) = 0;
  /// Orderly end: returns when all ranks have called it, so that nobody sees a broken connection.
  /// Nothing of the cluster may be used afterwards, and all communicators split off must be gone.
  virtual void leave() = 0;
  /// Tells the others why this rank ends. Rank 0, which serves the store, stays until they know, a
  /// few heartbeats at most.
  virtual void abort(const std::string& reason) noexcept = 0;
};

}  // namespace ashlar
