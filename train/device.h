#pragma once

#include <cstdint>
#include <memory>

#include "core/comm/communicator.h"

namespace ashlar {

class Cluster;

/// Where a rank keeps its tensors and computes.
enum class DeviceKind { kAuto, kCpu, kCuda };

/// GPUs that this build and this process can use; 0 without CUDA in the build or a driver.
int64_t cuda_device_count();

/// `kAuto` becomes CUDA where there is a GPU, otherwise the CPU. Throws Error(kRequest) when CUDA
/// is asked for and there is none, saying whether the build or the machine lacks it.
DeviceKind resolve_device(DeviceKind asked);

/// The GPU of the rank with number `local_rank` on this host: that of its number, or the only one
/// this process sees, where the launcher gives each process its own. Throws Error(kRequest) when
/// there are fewer GPUs than ranks.
int64_t device_of_rank(int64_t local_rank);

/// Makes this thread allocate and compute on GPU `index`, with deterministic algorithms as far as
/// libtorch has them and sums of bf16 products in fp32. Before the first product.
void use_cuda_device(int64_t index);

/// The communicator for tensors on GPU `index` of a rank that is alone.
std::unique_ptr<Communicator> make_cuda_alone(int64_t index);

/// The ranks' communicator for tensors on GPU `index`: NCCL, or copies on the device when the
/// cluster is one rank. A collective. Throws Error(kRequest) when several ranks need NCCL and this
/// build has none, Error(kIo) when it refuses. `timeout_seconds` of connecting.
std::unique_ptr<Communicator> make_cuda_communicator(Cluster& cluster, int64_t index,
                                                     double timeout_seconds);

}  // namespace ashlar
