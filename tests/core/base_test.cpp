#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <set>

#include "core/base/checked.h"
#include "core/base/cpu.h"
#include "core/base/dtype.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

TEST(Checked, RefusesOverflow) {
  EXPECT_EQ(checked_mul(3, 4, "x"), 12);
  test::expect_error(ErrorCode::kData, {"size", "overflows"},
                     [] { checked_mul(INT64_MAX, 2, "size"); });
  test::expect_error(ErrorCode::kData, {"overflows"}, [] { checked_add(INT64_MAX, 1, "size"); });
  const int64_t negative[] = {3, -1};
  test::expect_error(ErrorCode::kData, {"negative dimension -1"},
                     [&] { checked_numel(negative, "tensor"); });
}

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
    EXPECT_GE(dtype_bytes(dtype), 1);
  }
  test::expect_error(ErrorCode::kData, {"F12"}, [] { dtype_from_name("F12"); });
}

TEST(DType, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 0x10000u; ++h) {
    const float f = half_to_float(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(f))));
      continue;
    }
    ASSERT_EQ(float_to_half(f), h);
    ASSERT_EQ(f, static_cast<float>(std::bit_cast<_Float16>(static_cast<uint16_t>(h))));
  }
}

TEST(DType, HalfRoundingEqualsTheCompilersOnRandomFloats) {
  const Philox rng(7);
  for (uint64_t i = 0; i < 200000; ++i) {
    const auto f = std::bit_cast<float>(static_cast<uint32_t>(rng.bits(i)));
    if (std::isnan(f)) continue;
    ASSERT_EQ(float_to_half(f), std::bit_cast<uint16_t>(static_cast<_Float16>(f))) << f;
    const float b = bfloat_to_float(float_to_bfloat(f));
    if (std::isfinite(b)) {
      ASSERT_LE(std::abs(b - f), std::max(std::abs(f) * 0x1p-8f, 0x1p-133f));
    }
  }
}

TEST(Philox, EqualsThePublishedVectors) {
  // Random123's kat_vectors for philox4x32-10: all-zero and all-one counters and keys.
  const auto zero = Philox(0, 0).block(0);
  EXPECT_EQ(zero, (std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const auto ones = Philox(~0ull, ~0ull).block(~0ull);
  EXPECT_EQ(ones, (std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
}

TEST(Philox, NormalsHaveUnitMoments) {
  const Philox rng(11);
  const int64_t n = 200000;
  double sum = 0, square = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = rng.normal(static_cast<uint64_t>(i));
    sum += x;
    square += x * x;
  }
  // Five standard errors of the mean and of the variance of n normals.
  const std::vector<double> moments = {sum / n, square / n}, expected = {0.0, 1.0};
  EXPECT_TRUE(test::within(moments, expected, test::statistical(5 * std::sqrt(2.0 / n), 11, n)));
}

TEST(ThreadPool, RunsEveryIndexOnceAndRethrows) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> hits(97);
      pool.parallel_for(97, [&](int64_t i, int thread) {
        EXPECT_LT(thread, pool.size());
        hits[static_cast<size_t>(i)].fetch_add(1);
      });
      for (const auto& h : hits) ASSERT_EQ(h.load(), 1);
    }
    EXPECT_THROW(pool.parallel_for(10,
                                   [](int64_t i, int) {
                                     if (i == 3) fail(ErrorCode::kIo, "index {}", i);
                                   }),
                 Error);
    std::atomic<int> after{0};
    pool.parallel_for(10, [&](int64_t, int) { after.fetch_add(1); });
    EXPECT_EQ(after.load(), 10);
  }
}

TEST(Cpu, NamesRoundTripAndUnknownOnesAreRefused) {
  for (Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni}) {
    EXPECT_EQ(isa_from_name(isa_name(isa)), isa);
  }
  EXPECT_TRUE(isa_supported(Isa::kGeneric));
  EXPECT_GE(cpu_features().cores, 1);
  test::expect_error(ErrorCode::kRequest, {"ASHLAR_ISA", "sse9", "avx2"},
                     [] { isa_from_name("sse9"); });
}

TEST(Error, MapsToExitStatus) {
  EXPECT_EQ(Error(ErrorCode::kRequest, "x").exit_status(), 2);
  EXPECT_EQ(Error(ErrorCode::kData, "x").exit_status(), 1);
  test::expect_error(ErrorCode::kInternal, {"base_test.cpp", "1 vs 2"},
                     [] { ASHLAR_CHECK_EQ(1, 2); });
}

}  // namespace
}  // namespace ashlar
