#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/communicator.h"

// Collectives of a run that is not there: their time without their peers, for planning and for
// tests of overlap.
//
// Model. A collective among n ranks is a ring of equal steps, each of which takes
//   latency + (bytes of one step) / bandwidth:
//   all_reduce of B bytes: 2(n-1) steps of B/n;   reduce_scatter to, all_gather of P bytes per
//   rank: n-1 steps of P;   broadcast of B bytes: ⌈log2 n⌉ steps of B (tree);   barrier: 2(n-1)
//   steps of 0.
// One collective at a time uses a link; those begun meanwhile queue up behind it, in order. A group
// within one node uses the link inside the node if there is one; every other group the link between
// nodes, whose bandwidth is then what one ring through all its nodes gets.
// Not modelled: contention with other jobs, slow ranks, the cost of copies, faster algorithms for
// small buffers (NCCL's trees), in-network reduction.

namespace ashlar {

struct SimulatedLink {
  double latency = 0;    ///< seconds per step
  double bandwidth = 0;  ///< bytes per second that a rank sends, and receives at the same time
};

struct SimulatedNetwork {
  SimulatedLink between;
  std::optional<SimulatedLink> inside;  ///< a node
  int64_t ranks_per_node = 1;           ///< ranks 0 to ranks_per_node - 1 are the first node, …
};

/// Seconds since the timeline began, and a way to let time pass until then. Tests and plans bring
/// their own.
struct SimulatedClock {
  std::function<double()> now;
  std::function<void(double)> sleep_until;

  /// The machine's own steady clock, 0 at this call.
  static SimulatedClock real();
  /// A clock that stands still but for sleep_until.
  static SimulatedClock manual();
};

/// One collective as it went; times in seconds on the clock.
struct SimulatedCollective {
  std::string kind;  ///< "all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier"
  int64_t ranks = 0;
  int64_t bytes = 0;  ///< B of all_reduce and broadcast, n·P of the others
  bool inside = false;
  double begun = 0;  ///< when it was asked for
  double start = 0;  ///< when the link was free
  double end = 0;
  double waited = 0;  ///< how long wait() held the caller: what was not hidden
};

/// The links of the simulated network and what went over them. Safe for any thread.
class SimulatedTimeline {
 public:
  SimulatedTimeline(const SimulatedNetwork& network, SimulatedClock clock);

  const SimulatedNetwork& network() const { return network_; }
  std::vector<SimulatedCollective> collectives() const;
  /// Busy time of both links, and the part of it that callers did not wait for, in seconds.
  double busy() const;
  double hidden() const;

  /// For communicators: puts a collective on its link, and its index to wait for it by.
  size_t begin(SimulatedCollective collective, double seconds);
  bool done(size_t index) const;
  void wait(size_t index);

 private:
  SimulatedNetwork network_;
  SimulatedClock clock_;
  mutable std::mutex mutex_;
  std::vector<SimulatedCollective> collectives_;
  double free_between_ = 0, free_inside_ = 0;
};

/// Rank `rank` of `size` ranks of which only this one exists. Every other rank contributes what
/// this one does: a sum is n times the value (rounded once), a maximum the value, a gather n
/// copies, and a broadcast changes nothing. Data changes when the collective is begun, by the
/// caller's own thread.
std::unique_ptr<Communicator> make_simulated_communicator(
    int64_t rank, int64_t size, std::shared_ptr<SimulatedTimeline> timeline);

}  // namespace ashlar
