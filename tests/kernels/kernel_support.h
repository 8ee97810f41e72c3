#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "core/base/cpu.h"
#include "core/base/rng.h"
#include "kernels/dispatch.h"

namespace ashlar::test {

/// Every ISA that this processor can run.
inline std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni}) {
    if (isa_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

/// Those with fused multiply-add: they share every bit.
inline std::vector<Isa> fma_isas() {
  std::vector<Isa> isas = supported_isas();
  isas.erase(isas.begin());  // generic
  return isas;
}

/// A test that runs once per supported ISA: TEST_P(Suite, Name) uses kernels().
class PerIsa : public ::testing::TestWithParam<Isa> {
 protected:
  const KernelTable& kernels() const { return kernels_for(GetParam()); }
};
inline std::string isa_test_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

/// n standard normals, a pure function of (seed, index).
inline std::vector<float> normals(int64_t n, uint64_t seed, double scale = 1) {
  const Philox rng(seed);
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(scale * rng.normal(i));
  }
  return values;
}

/// 64-byte aligned bytes, with guard bytes behind them that check() verifies.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t size)
      : size_(static_cast<size_t>(size)),
        data_(static_cast<std::byte*>(::operator new (size_ + kGuard, std::align_val_t{64}))) {
    std::memset(data_, 0xa5, size_ + kGuard);
  }
  ~AlignedBytes() { ::operator delete (data_, std::align_val_t{64}); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  /// True while nobody wrote beyond the end.
  bool intact() const {
    for (size_t i = size_; i < size_ + kGuard; ++i) {
      if (data_[i] != std::byte{0xa5}) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t size_;
  std::byte* data_;
};

/// The same bits, NaN included.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace ashlar::test
