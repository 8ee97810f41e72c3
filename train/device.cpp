#include "train/device.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>

#include "core/base/error.h"
#include "train/dist/cluster.h"
#include "train/dist/launch.h"
#ifdef ASHLAR_WITH_NCCL
#include "core/comm/nccl.h"
#endif

// Everything here goes through libtorch's tables of devices, which are empty in a build for CPUs:
// the same source serves both.

namespace ashlar {

int64_t cuda_device_count() {
  const auto& hooks = at::detail::getCUDAHooks();
  return hooks.hasCUDA() ? hooks.getNumGPUs() : 0;
}

DeviceKind resolve_device(DeviceKind asked) {
  if (asked == DeviceKind::kCpu) return asked;
  const bool found = cuda_device_count() > 0;
  if (asked == DeviceKind::kAuto) return found ? DeviceKind::kCuda : DeviceKind::kCpu;
#ifdef ASHLAR_WITH_TORCH_CUDA
  require(found, ErrorCode::kRequest,
          "train.device: cuda, but no GPU is to be seen: is a driver installed, and what does "
          "CUDA_VISIBLE_DEVICES say?");
#else
  require(found, ErrorCode::kRequest,
          "train.device: cuda, but this build is for CPUs: configure with -DASHLAR_TORCH_CUDA=ON "
          "(after scripts/setup --cuda)");
#endif
  return asked;
}

int64_t device_of_rank(int64_t local_rank) {
  const int64_t count = cuda_device_count();
  if (count == 1) return 0;
  require(local_rank < count, ErrorCode::kRequest,
          "rank {} of this host has no GPU: {} are to be seen; start one rank per GPU", local_rank,
          count);
  return local_rank;
}

void use_cuda_device(int64_t index) {
  // cuBLAS gives the same bits in every run only with a workspace of fixed size; it reads this when
  // it starts. What the user has set stays.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/true);
  context.setDeterministicFillUninitializedMemory(false);
  context.setAllowBF16ReductionCuBLAS(false);
  const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
  cuda.setDevice(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index)));
}

std::unique_ptr<Communicator> make_cuda_alone(int64_t index) {
  return make_single_communicator([index](void* to, const void* from, size_t bytes) {
    const auto options = at::TensorOptions(at::kByte).device(
        at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index)));
    const auto count = static_cast<int64_t>(bytes);
    at::from_blob(to, {count}, options)
        .copy_(at::from_blob(const_cast<void*>(from), {count}, options));
  });
}

std::unique_ptr<Communicator> make_cuda_communicator(Cluster& cluster, int64_t index,
                                                     double timeout_seconds) {
  const Launch& launch = cluster.launch();
  if (launch.world == 1) return make_cuda_alone(index);
#ifdef ASHLAR_WITH_NCCL
  NcclOptions options;
  options.device = static_cast<int>(index);
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * timeout_seconds));
  options.guard = cluster.guard();
  options.wait_on_stream = true;
  return make_nccl_communicator(cluster.store(), launch.rank, launch.world, "tensors", options);
#else
  static_cast<void>(timeout_seconds);
  fail(ErrorCode::kRequest,
       "{} ranks with train.device: cuda need NCCL, which this build lacks: configure with "
       "-DASHLAR_NCCL=ON, or train with one rank or on the CPU",
       launch.world);
#endif
}

}  // namespace ashlar
