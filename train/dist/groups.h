#pragma once

#include <chrono>
#include <cstdint>

#include "core/comm/communicator.h"

namespace ashlar {

/// How gradients are summed over micro-batches and ranks.
enum class Reduction {
  kFp32,  ///< summed over ranks in fp32
  kBf16,  ///< in bf16: half the traffic, one rounding per addition
  /// Every micro-batch's gradient is made from zero and they are added in the order of their
  /// number, in fp32: the same bits for every number of ranks, ZeRO stage and grouping. Sends whole
  /// gradients; a reference, not for speed.
  kOrdered,
};

/// Which ranks share what. `shard`: ranks that together hold one copy of the sharded state, rank i
/// of them slice i; `replica`: ranks with the same slice. Whole copies everywhere: shard has one
/// rank, replica all of them. Hybrid sharding lies between.
struct ShardGroups {
  Communicator* world = nullptr;
  Communicator* shard = nullptr;
  Communicator* replica = nullptr;
};

/// Time spent waiting for other ranks.
class WaitTally {
 public:
  /// Without overlap a collective is waited for as soon as it is begun, so that all of its time
  /// counts: what overlap hides can be measured. For benchmarks.
  void overlap(bool on) { overlap_ = on; }
  /// To be called with every collective that is not waited for at once.
  void begun(CommWork* work) {
    if (!overlap_ && work != nullptr) wait(*work);
  }
  void wait(CommWork& work) {
    const auto begin = std::chrono::steady_clock::now();
    work.wait();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  double seconds() const { return seconds_; }

 private:
  double seconds_ = 0;
  bool overlap_ = true;
};

}  // namespace ashlar
