#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/base/dtype.h"

// Collectives over the ranks of a run. Buffers are raw memory of the device the communicator works
// on: host memory for Gloo, device memory for NCCL.

namespace ashlar {

enum class ReduceOp { kSum, kMax, kMin };

/// A collective under way. Its buffers must stay as they are until wait() has returned; destroying
/// it does not wait.
class CommWork {
 public:
  virtual ~CommWork() = default;
  virtual bool done() = 0;
  /// Returns when the result is there, for the host, or, where a communicator says so, for what is
  /// put on the device's stream from now on. Throws Error(kIo) when the collective failed or timed
  /// out; the message names the rank that is missing or slow and what it was doing last.
  virtual void wait() = 0;
};

/// Ranks that work together. All of them call the same collectives with the same sizes in the same
/// order, each rank from one thread at a time. Element types: F32, BF16, F64, I64 and U8 (no sum).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;

  /// `data` [count] becomes the reduction over all ranks.
  virtual std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                               ReduceOp op) = 0;
  /// `in` [size()·count]; `out` [count] becomes rank()'s part of the reduction.
  virtual std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count,
                                                   DType type, ReduceOp op) = 0;
  /// `in` [count] of every rank, in order, into `out` [size()·count].
  virtual std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                               DType type) = 0;
  /// `data` [count] of `root` on every rank.
  virtual std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                              int64_t root) = 0;
  /// Returns when every rank has called it.
  virtual void barrier() = 0;
  /// Returns when all collectives begun here have ended, also where wait() orders work on a device
  /// and lets the host go on; throws like wait(). Before the host reads what depends on them.
  virtual void settle() {}

  /// A communicator of `ranks` (of this one, ascending, rank() among them). Called by every rank of
  /// this communicator at the same point, each with the group it belongs to; `name` differs from
  /// call to call.
  virtual std::unique_ptr<Communicator> split(std::span<const int64_t> ranks,
                                              const std::string& name) = 0;
};

/// Copies bytes; `to` and `from` do not overlap.
using CopyBytes = std::function<void(void* to, const void* from, size_t bytes)>;

/// One rank alone: every collective is a copy or nothing at all. `copy`: of buffers that are not
/// host memory.
std::unique_ptr<Communicator> make_single_communicator(CopyBytes copy = {});

}  // namespace ashlar
