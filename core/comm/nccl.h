#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/comm/communicator.h"
#include "core/comm/guard.h"
#include "core/comm/store.h"

namespace ashlar {

struct NcclOptions {
  int device = 0;  ///< CUDA device of this rank; no two ranks may share one
  /// The CUDA stream (cudaStream_t) that the caller's kernels run on; null: the default stream. A
  /// collective begins after what was put there before it.
  void* stream = nullptr;
  std::chrono::milliseconds timeout{300'000};  ///< to connect; of a collective without a guard
  /// wait() makes `stream` wait instead of the host, which goes on at once; settle() is where the
  /// host waits and where a silent peer is noticed.
  bool wait_on_stream = false;
  std::shared_ptr<CollectiveGuard> guard;  ///< asked while something is waited for; may be null
};

/// A Communicator over NCCL of `size` ranks, each with a GPU of its own; buffers are device memory.
/// Collectives run on a stream of their own, one after another; wait() holds the host until the
/// result is there, unless `wait_on_stream`. NCCL is never called in a way that blocks: when a peer
/// does not answer, the guard or the timeout ends the wait, the communicator is aborted (which also
/// ends its kernels), and Error(kIo) is thrown; so does everything begun later. Rank 0's id travels
/// through `store` under `name`, which differs from communicator to communicator. Throws Error(kIo)
/// when CUDA or NCCL refuse, or when not all ranks come within the timeout.
std::unique_ptr<Communicator> make_nccl_communicator(KeyValueStore& store, int64_t rank,
                                                     int64_t size, const std::string& name,
                                                     const NcclOptions& options);

/// GPUs that this process sees; 0 without a driver.
int nccl_device_count();

}  // namespace ashlar
