#include "core/comm/nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "core/base/error.h"

namespace ashlar {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

void check_cuda(cudaError_t status, const char* what) {
  require(status == cudaSuccess, ErrorCode::kIo, "CUDA: {}: {}", what, cudaGetErrorString(status));
}

// Without a cluster around it, a communicator knows a timeout only.
class TimeoutGuard : public CollectiveGuard {
 public:
  explicit TimeoutGuard(milliseconds timeout) : timeout_(timeout) {}
  void begun(const CollectiveInfo&) override {}
  void waiting(const CollectiveInfo& what, milliseconds elapsed) override {
    require(elapsed < timeout_, ErrorCode::kIo,
            "{}: not done within {:.1f} s; is a rank missing, or in another collective?", what.name,
            std::chrono::duration<double>(timeout_).count());
  }
  [[noreturn]] void failed(const CollectiveInfo& what, const std::string& error) override {
    fail(ErrorCode::kIo, "{}: {}", what.name, error);
  }

 private:
  milliseconds timeout_;
};

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      return ncclUint8;
    default:
      fail(ErrorCode::kInternal, "collectives carry F32, BF16, F64, I64 and U8, not {}",
           dtype_name(type));
  }
}

ncclRedOp_t nccl_op(DType type, ReduceOp op) {
  require(type != DType::kU8 || op != ReduceOp::kSum, ErrorCode::kInternal,
          "U8 is not summed over ranks: it would overflow");
  if (op == ReduceOp::kSum) return ncclSum;
  return op == ReduceOp::kMax ? ncclMax : ncclMin;
}

// Calls `poll` until it says true, asking the guard now and then.
template <typename Poll>
void await(CollectiveGuard& guard, const CollectiveInfo& what, Poll poll) {
  const auto begin = Clock::now();
  auto asked = begin;
  for (int64_t turn = 0; !poll(); ++turn) {
    // The first turns spin: most collectives end within microseconds of being waited for.
    if (turn > 2000) std::this_thread::sleep_for(20us);
    const auto now = Clock::now();
    if (now - asked < 50ms) continue;
    asked = now;
    guard.waiting(what, std::chrono::duration_cast<milliseconds>(now - begin));
  }
}

// A communicator of NCCL with its stream. Shared by the works under way.
class Handle {
 public:
  Handle(std::vector<int64_t> ranks, const NcclOptions& options,
         std::shared_ptr<CollectiveGuard> guard)
      : ranks_(std::move(ranks)), options_(options), guard_(std::move(guard)) {
    check_cuda(cudaSetDevice(options.device), "choosing the device");
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    // Before the kernels of the backward pass, so that communication starts while they run.
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
               "creating a stream");
  }

  ~Handle() {
    if (comm_ != nullptr) ncclCommDestroy(comm_);
    cudaStreamDestroy(stream_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void connect(const ncclUniqueId& id, int rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const CollectiveInfo what{"connecting NCCL", ranks_};
    finish(what,
           ncclCommInitRankConfig(&comm_, static_cast<int>(ranks_.size()), id, rank, &config));
  }

  std::shared_ptr<Handle> split(std::vector<int64_t> ranks, int color, int key) {
    require_alive();
    auto part = std::make_shared<Handle>(std::move(ranks), options_, guard_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const CollectiveInfo what{"splitting NCCL's communicator", ranks_};
    finish(what, ncclCommSplit(comm_, color, key, &part->comm_, &config));
    part->finish(what, ncclInProgress);
    return part;
  }

  /// Puts a collective on the stream behind what the caller has put on its own.
  template <typename Call>
  cudaEvent_t begin(const CollectiveInfo& what, Call call) {
    require_alive();
    guard_->begun(what);
    const cudaEvent_t ready = make_event();
    check_cuda(cudaEventRecord(ready, static_cast<cudaStream_t>(options_.stream)), "an event");
    check_cuda(cudaStreamWaitEvent(stream_, ready, 0), "waiting for an event");
    check_cuda(cudaEventDestroy(ready), "an event");
    finish(what, call(comm_, stream_));
    const cudaEvent_t end = make_event();
    check_cuda(cudaEventRecord(end, stream_), "an event");
    return end;
  }

  bool ended(cudaEvent_t end) {
    const cudaError_t status = cudaEventQuery(end);
    if (status == cudaErrorNotReady) return false;
    check_cuda(status, "a collective");
    return true;
  }

  void wait(const CollectiveInfo& what, cudaEvent_t end) {
    if (options_.wait_on_stream) {
      guarded([&] { check_state(what); });
      check_cuda(cudaStreamWaitEvent(static_cast<cudaStream_t>(options_.stream), end, 0),
                 "waiting for an event");
      return;
    }
    wait_on_host(what, end);
  }

  /// Until everything on the stream has ended.
  void settle() {
    require_alive();
    const CollectiveInfo what{"the collectives under way", ranks_};
    const cudaEvent_t end = make_event();
    check_cuda(cudaEventRecord(end, stream_), "an event");
    const std::unique_ptr<CUevent_st, cudaError_t (*)(cudaEvent_t)> owner(end, cudaEventDestroy);
    wait_on_host(what, end);
  }

  void wait_on_host(const CollectiveInfo& what, cudaEvent_t end) {
    guarded([&] {
      await(*guard_, what, [&] {
        check_state(what);
        return ended(end);
      });
    });
  }

  const std::vector<int64_t>& ranks() const { return ranks_; }

 private:
  static cudaEvent_t make_event() {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
    return event;
  }

  void require_alive() const {
    require(comm_ != nullptr, ErrorCode::kIo, "NCCL: an earlier collective has failed");
  }

  // Whatever goes wrong, NCCL's kernels must not spin on.
  template <typename Body>
  void guarded(Body body) {
    try {
      body();
    } catch (...) {
      if (comm_ != nullptr) ncclCommAbort(comm_);
      comm_ = nullptr;
      throw;
    }
  }

  // True when the last call has been taken in.
  bool check_state(const CollectiveInfo& what) {
    require_alive();
    ncclResult_t state = ncclSuccess;
    const ncclResult_t status = ncclCommGetAsyncError(comm_, &state);
    if (status != ncclSuccess) state = status;
    if (state == ncclInProgress) return false;
    if (state != ncclSuccess) {
      guard_->failed(
          what, fmt::format("NCCL: {} ({})", ncclGetErrorString(state), ncclGetLastError(comm_)));
    }
    return true;
  }

  void finish(const CollectiveInfo& what, ncclResult_t status) {
    guarded([&] {
      if (status != ncclSuccess && status != ncclInProgress) {
        guard_->failed(what, fmt::format("NCCL: {} ({})", ncclGetErrorString(status),
                                         ncclGetLastError(comm_)));
      }
      await(*guard_, what, [&] { return check_state(what); });
    });
  }

  std::vector<int64_t> ranks_;
  NcclOptions options_;
  std::shared_ptr<CollectiveGuard> guard_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
};

class NcclWork : public CommWork {
 public:
  NcclWork(std::shared_ptr<Handle> handle, CollectiveInfo info, cudaEvent_t end)
      : handle_(std::move(handle)), info_(std::move(info)), end_(end) {}
  ~NcclWork() override { cudaEventDestroy(end_); }
  bool done() override { return handle_->ended(end_); }
  void wait() override { handle_->wait(info_, end_); }

 private:
  std::shared_ptr<Handle> handle_;
  CollectiveInfo info_;
  cudaEvent_t end_;
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<Handle> handle, int64_t rank)
      : handle_(std::move(handle)), rank_(rank) {
    check_cuda(cudaMalloc(&mark_, 1), "allocating the byte of a barrier");
    check_cuda(cudaMemset(mark_, 0, 1), "clearing the byte of a barrier");
  }
  ~NcclCommunicator() override { cudaFree(mark_); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(handle_->ranks().size()); }

  std::unique_ptr<CommWork> all_reduce(void* data, int64_t count, DType type,
                                       ReduceOp op) override {
    const auto nccl = nccl_type(type);
    const auto reduction = nccl_op(type, op);
    return begin("all_reduce", count, type, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllReduce(data, data, static_cast<size_t>(count), nccl, reduction, comm, stream);
    });
  }

  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp op) override {
    const auto nccl = nccl_type(type);
    const auto reduction = nccl_op(type, op);
    return begin("reduce_scatter", count, type, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclReduceScatter(in, out, static_cast<size_t>(count), nccl, reduction, comm, stream);
    });
  }

  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    const auto nccl = nccl_type(type);
    return begin("all_gather", count, type, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllGather(in, out, static_cast<size_t>(count), nccl, comm, stream);
    });
  }

  std::unique_ptr<CommWork> broadcast(void* data, int64_t count, DType type,
                                      int64_t root) override {
    ASHLAR_CHECK(root >= 0 && root < size());
    const auto nccl = nccl_type(type);
    return begin("broadcast", count, type, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclBroadcast(data, data, static_cast<size_t>(count), nccl, static_cast<int>(root),
                           comm, stream);
    });
  }

  void barrier() override {
    all_reduce(mark_, 1, DType::kU8, ReduceOp::kMax)->wait();
    settle();
  }
  void settle() override { handle_->settle(); }

  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks, const std::string&) override {
    const auto me = std::find(ranks.begin(), ranks.end(), rank_);
    ASHLAR_CHECK(me != ranks.end());
    std::vector<int64_t> members;
    for (const int64_t r : ranks) {
      ASHLAR_CHECK(r >= 0 && r < size());
      members.push_back(handle_->ranks()[static_cast<size_t>(r)]);
    }
    // The lowest rank names the group: groups share no rank.
    auto part = handle_->split(std::move(members), static_cast<int>(ranks.front()),
                               static_cast<int>(rank_));
    return std::make_unique<NcclCommunicator>(std::move(part), me - ranks.begin());
  }

 private:
  template <typename Call>
  std::unique_ptr<CommWork> begin(const char* what, int64_t count, DType type, Call call) {
    ASHLAR_CHECK_GE(count, 0);
    CollectiveInfo info{fmt::format("{} of {} {}", what, count, dtype_name(type)),
                        handle_->ranks()};
    const cudaEvent_t end = handle_->begin(info, call);
    return std::make_unique<NcclWork>(handle_, std::move(info), end);
  }

  std::shared_ptr<Handle> handle_;
  int64_t rank_;
  void* mark_ = nullptr;
};

ncclUniqueId exchange_id(KeyValueStore& store, int64_t rank, const std::string& name,
                         milliseconds timeout) {
  ncclUniqueId id;
  const std::string key = "nccl/" + name;
  if (rank == 0) {
    const ncclResult_t status = ncclGetUniqueId(&id);
    require(status == ncclSuccess, ErrorCode::kIo, "NCCL: making the id of \"{}\": {}", name,
            ncclGetErrorString(status));
    store.set(key, std::string(id.internal, sizeof(id.internal)));
    return id;
  }
  const auto text = store.wait(key, timeout);
  require(text.has_value(), ErrorCode::kIo,
          "NCCL: rank 0 has not given the id of \"{}\" within {:.1f} s", name,
          std::chrono::duration<double>(timeout).count());
  require(text->size() == sizeof(id.internal), ErrorCode::kIo,
          "NCCL: the id of \"{}\" has {} bytes, {} belong there: do all ranks use one version of "
          "NCCL?",
          name, text->size(), sizeof(id.internal));
  std::memcpy(id.internal, text->data(), sizeof(id.internal));
  return id;
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(KeyValueStore& store, int64_t rank,
                                                     int64_t size, const std::string& name,
                                                     const NcclOptions& options) {
  ASHLAR_CHECK(size >= 1 && rank >= 0 && rank < size);
  const int devices = nccl_device_count();
  require(options.device >= 0 && options.device < devices, ErrorCode::kRequest,
          "rank {} is to use CUDA device {}, but this process sees {} of them", rank,
          options.device, devices);
  std::shared_ptr<CollectiveGuard> guard = options.guard;
  if (!guard) guard = std::make_shared<TimeoutGuard>(options.timeout);
  std::vector<int64_t> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  auto handle = std::make_shared<Handle>(std::move(ranks), options, std::move(guard));
  handle->connect(exchange_id(store, rank, name, options.timeout), static_cast<int>(rank));
  return std::make_unique<NcclCommunicator>(std::move(handle), rank);
}

int nccl_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace ashlar
