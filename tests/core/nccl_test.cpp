#include "core/comm/nccl.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/base/error.h"

// One rank on one GPU: NCCL allows no second rank there. What several ranks do together is tested
// on Gloo, behind the same interface.

namespace ashlar {
namespace {

using namespace std::chrono_literals;

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF64, DType::kI64, DType::kU8};

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (nccl_device_count() == 0) GTEST_SKIP() << "no GPU: NCCL is compiled, but not run";
  }
};

struct DeviceBytes {
  void* data = nullptr;
  size_t size;
  explicit DeviceBytes(const std::vector<char>& bytes) : size(bytes.size()) {
    EXPECT_EQ(cudaMalloc(&data, size), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data, bytes.data(), size, cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceBytes() { cudaFree(data); }
  std::vector<char> read() const {
    std::vector<char> bytes(size);
    EXPECT_EQ(cudaMemcpy(bytes.data(), data, size, cudaMemcpyDeviceToHost), cudaSuccess);
    return bytes;
  }
};

TEST_F(Nccl, EveryCollectiveOfOneRankIsACopy) {
  LocalStore store;
  const auto comm = make_nccl_communicator(store, 0, 1, "world", {});
  const auto part = comm->split(std::vector<int64_t>{0}, "part");
  for (Communicator* one : {comm.get(), part.get()}) {
    EXPECT_EQ(one->size(), 1);
    for (const DType type : kTypes) {
      constexpr int64_t kCount = 1021;
      std::vector<char> bytes(static_cast<size_t>(kCount * dtype_bytes(type)));
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 61);
      const std::vector<char> zeros(bytes.size());
      const DeviceBytes in(bytes), scattered(zeros), gathered(zeros);
      const ReduceOp op = type == DType::kU8 ? ReduceOp::kMax : ReduceOp::kSum;
      const auto reduced = one->all_reduce(in.data, kCount, type, op);
      const auto parted = one->reduce_scatter(in.data, scattered.data, kCount, type, op);
      one->all_gather(in.data, gathered.data, kCount, type)->wait();
      parted->wait();
      reduced->wait();
      EXPECT_TRUE(reduced->done());
      one->broadcast(in.data, kCount, type, 0)->wait();
      EXPECT_EQ(in.read(), bytes) << dtype_name(type);
      EXPECT_EQ(scattered.read(), bytes) << dtype_name(type);
      EXPECT_EQ(gathered.read(), bytes) << dtype_name(type);
    }
    one->barrier();
  }
  EXPECT_THROW(comm->all_reduce(nullptr, 1, DType::kU8, ReduceOp::kSum), Error);
}

TEST_F(Nccl, AMissingRankIsAnErrorInTime) {
  LocalStore store;
  NcclOptions options;
  options.timeout = 2s;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(make_nccl_communicator(store, 0, 2, "world", options), Error);
  EXPECT_THROW(make_nccl_communicator(store, 1, 2, "another", options), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 60s);
}

TEST(NcclDevices, ADeviceThatIsNotThereIsRefused) {
  LocalStore store;
  NcclOptions options;
  options.device = nccl_device_count();
  EXPECT_THROW(make_nccl_communicator(store, 0, 1, "world", options), Error);
}

}  // namespace
}  // namespace ashlar
