#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "core/comm/communicator.h"
#include "core/comm/guard.h"
#include "train/dist/store.h"

namespace ashlar {

struct GlooOptions {
  std::chrono::milliseconds timeout;       ///< to connect all ranks with each other
  std::shared_ptr<CollectiveGuard> guard;  ///< asked while a collective is waited for
};

/// A Communicator over Gloo (c10d::ProcessGroupGloo) of all `size` ranks of a run. Buffers are sent
/// from and received into the caller's memory. Collectives of one communicator run one after
/// another on a thread of its own, beside the caller.
///
/// Gloo moves the bytes between pairs of ranks; the collectives are composed of that here, because
/// c10d's reduce-scatter over Gloo is an all-reduce of a copy that happens inside wait(), and its
/// ring sums each part of a buffer in another order. Here every element is the sum over ranks 0, 1,
/// … in that order, in all_reduce as in reduce_scatter and for every cut of the buffers: results
/// are the same on each rank and run, and all ways to shard a sum agree bit for bit. Cost per rank
/// of n, for a buffer of B bytes: reduce_scatter and all_gather send (n-1)/n·B, all_reduce twice
/// that (small buffers: once (n-1)·B, in one step less), memory (n-1)/n·min(B, n·4 MiB).
///
/// When a collective has failed, its thread may never return and still hold the buffers: neither
/// can be reused, the process has to end with _exit, and the destructor leaks what is stuck.
///
/// The address to listen at is the one that routes to the store's host; GLOO_SOCKET_IFNAME names an
/// interface instead. Throws Error(kIo) when not all ranks connect in time.
std::unique_ptr<Communicator> make_gloo_communicator(const TcpStore& store, int64_t rank,
                                                     int64_t size, const GlooOptions& options);

/// The local address whose packets reach `host`. Throws Error(kIo) when there is none.
std::string local_address_towards(const std::string& host, int64_t port);

}  // namespace ashlar
