#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/fwht.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/hadamard.h"
#include "tests/kernels/kernel_support.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<T>& host) : count_(host.size()) {
    cuda_check(cudaMalloc(reinterpret_cast<void**>(&data_), count_ * sizeof(T) + 1), "cudaMalloc");
    cuda_check(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  T* get() { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    cuda_check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
               "copy");
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device: CUDA kernels are not tested";
  }
};

TEST_F(Cuda, RmsNormMatchesTheEquation) {
  for (const int64_t n : {1, 31, 64, 100, 1000, 4096}) {
    const int64_t rows = 5;
    const auto x = normals(rows * n, 1, 3.0), gain = normals(n, 2);
    DeviceBuffer<float> dx(x), dgain(gain);
    rms_norm_cuda(dx.get(), dgain.get(), 1e-5, rows, n, dx.get());
    std::vector<double> want(x.size());
    double largest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t i = 0; i < n; ++i) squares += std::pow(x[static_cast<size_t>(r * n + i)], 2);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
      for (int64_t i = 0; i < n; ++i) {
        const size_t at = static_cast<size_t>(r * n + i);
        want[at] = x[at] * inverse * gain[static_cast<size_t>(i)];
        largest = std::max(largest, std::abs(want[at]));
      }
    }
    const double terms = static_cast<double>(n) / 256 + 16;
    EXPECT_TRUE(within(dx.host(), want, reordered<float>(terms, largest, 1))) << n;
  }
}

TEST_F(Cuda, HadamardGivesTheBitsOfTheCpu) {
  for (const int64_t n : {1, 2, 4, 8, 12, 20, 24, 64, 172, 688, 1536, 4096, 11008, 14336, 32768}) {
    const int64_t rows = 3;
    const HadamardPlan plan = hadamard_plan(n);
    auto x = normals(rows * n, 3);
    DeviceBuffer<float> dx(x);
    DeviceBuffer<int8_t> signs(plan.signs);
    std::vector<float> scratch(static_cast<size_t>(n));
    for (const bool transpose : {false, true}) {
      hadamard_apply_cuda(n, plan.base, plan.base > 1 ? signs.get() : nullptr, dx.get(), rows,
                          transpose);
      for (int64_t r = 0; r < rows; ++r) {
        hadamard_apply(plan, x.data() + r * n, scratch.data(), transpose);
      }
      EXPECT_TRUE(within(dx.host(), x, exact())) << n;
    }
  }
}

TEST_F(Cuda, TooLongARowIsRefused) {
  DeviceBuffer<float> x(std::vector<float>(1));
  expect_error(ErrorCode::kRequest, {"1048576", "shared memory"},
               [&] { hadamard_apply_cuda(1 << 20, 1, nullptr, x.get(), 1); });
}

}  // namespace
}  // namespace ashlar::test
