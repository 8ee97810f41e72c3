#include "kernels/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/hadamard_construct.h"
#include "tests/kernels/kernel_support.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

/// True if every entry is ±1 and HHᵀ = nI, in integers.
bool is_hadamard(const std::vector<int8_t>& h, int64_t n) {
  if (static_cast<int64_t>(h.size()) != n * n) return false;
  for (const int8_t v : h) {
    if (v != 1 && v != -1) return false;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      int dot = 0;
      for (int64_t k = 0; k < n; ++k) {
        dot += h[static_cast<size_t>(i * n + k)] * h[static_cast<size_t>(j * n + k)];
      }
      if (dot != (i == j ? n : 0)) return false;
    }
  }
  return true;
}

TEST(Hadamard, EveryMultipleOfFourUpTo256IsBuiltAndOrthogonal) {
  for (int64_t n = 1; n <= 256; ++n) {
    const bool expected = n == 1 || n == 2 || n % 4 == 0;
    ASSERT_EQ(hadamard_supported(n), expected) << n;
    if (expected) {
      EXPECT_TRUE(is_hadamard(hadamard_matrix(n), n)) << n;
    }
  }
}

TEST(Hadamard, LargerOrders) {
  for (const int64_t n : {312, 344, 368, 464, 576, 752}) {
    EXPECT_TRUE(is_hadamard(hadamard_matrix(n), n)) << n;
  }
  for (const int64_t q : {311, 343, 367, 463, 751}) {
    EXPECT_TRUE(is_hadamard(hadamard_paley1(q), q + 1)) << q;
  }
  for (const int64_t q : {25, 49, 81, 125, 169}) {
    EXPECT_TRUE(is_hadamard(hadamard_paley2(q), 2 * (q + 1))) << q;
  }
  for (const int64_t n : {5120, 11008, 13824, 14336, 18944, 1536, 172 * 64}) {
    EXPECT_TRUE(hadamard_supported(n)) << n;
  }
}

TEST(Hadamard, SequenceConstructions) {
  for (const int64_t n : {52, 92, 100, 116, 156, 172, 188, 236, 244}) {
    EXPECT_TRUE(is_hadamard(hadamard_sequences(n), n)) << n;
  }
  EXPECT_TRUE(hadamard_sequences(12).empty());
}

TEST(Hadamard, BasesAreAsSmallAsPossible) {
  EXPECT_EQ(hadamard_plan(4096).base, 1);
  EXPECT_EQ(hadamard_plan(11008).base, 172);
  EXPECT_EQ(hadamard_plan(13824).base, 108);
  EXPECT_EQ(hadamard_plan(14336).base, 28);
  EXPECT_EQ(hadamard_plan(5120).base, 20);
  EXPECT_EQ(hadamard_plan(18944).base, 148);
  EXPECT_EQ(hadamard_plan(184).base, 92);
}

TEST(Hadamard, PaleyTwoIsSymmetricPaleyOneIsNot) {
  const auto symmetric = [](const std::vector<int8_t>& h, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        if (h[static_cast<size_t>(i * n + j)] != h[static_cast<size_t>(j * n + i)]) return false;
      }
    }
    return true;
  };
  EXPECT_TRUE(symmetric(hadamard_paley2(5), 12));
  EXPECT_FALSE(symmetric(hadamard_paley1(11), 12));
  EXPECT_FALSE(symmetric(hadamard_paley1(19), 20));
}

TEST(Hadamard, RefusesUnknownOrders) {
  for (const int64_t n : {-4, 0, 3, 6, 10, 18, 30}) {
    EXPECT_FALSE(hadamard_supported(n)) << n;
  }
  expect_error(ErrorCode::kRequest, {"order 6 "}, [] { hadamard_plan(6); });
  expect_error(ErrorCode::kRequest, {"order 3 "}, [] { hadamard_base_matrix(3); });
}

class HadamardApply : public PerIsa {
 protected:
  void apply(const HadamardPlan& plan, float* x, int64_t inner, float* scratch, bool transpose) {
    kernels().hadamard_f32(plan, plan.signs.data(), x, inner, scratch, transpose);
  }
  void apply(const HadamardPlan& plan, double* x, int64_t inner, double* scratch, bool transpose) {
    kernels().hadamard_f64(plan, plan.signs.data(), x, inner, scratch, transpose);
  }

  template <typename Real>
  void compare_with_dense(int64_t n, int64_t inner, bool transpose) {
    const auto source = normals(n * inner, static_cast<uint64_t>(n * 31 + inner));
    std::vector<Real> x(source.begin(), source.end()), scratch(x.size());
    const HadamardPlan plan = hadamard_plan(n);
    const std::vector<int8_t> h = hadamard_matrix(n);
    std::vector<double> want(x.size(), 0.0);
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < inner; ++c) {
        double sum = 0, magnitude = 0;
        for (int64_t j = 0; j < n; ++j) {
          const double v = source[static_cast<size_t>(j * inner + c)];
          sum += h[static_cast<size_t>(transpose ? i * n + j : j * n + i)] * v;
          magnitude += std::abs(v);
        }
        want[static_cast<size_t>(i * inner + c)] = sum / std::sqrt(static_cast<double>(n));
        norm = std::max(norm, magnitude / std::sqrt(static_cast<double>(n)));
      }
    }
    apply(plan, x.data(), inner, scratch.data(), transpose);
    const double terms = static_cast<double>(plan.base) + std::log2(static_cast<double>(n)) + 2;
    EXPECT_TRUE(within(x, want, reordered<Real>(terms, norm, 1)))
        << n << " inner " << inner << " transpose " << transpose;
  }
};
INSTANTIATE_TEST_SUITE_P(Isas, HadamardApply, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST_P(HadamardApply, EqualsTheDenseProduct) {
  for (const int64_t n : {1, 2, 4, 8, 12, 16, 20, 24, 32, 64, 172, 128, 256, 344, 576}) {
    for (const bool transpose : {false, true}) {
      compare_with_dense<float>(n, 1, transpose);
      compare_with_dense<double>(n, 1, transpose);
    }
  }
}

TEST_P(HadamardApply, StridedFormMixesTheMiddleAxis) {
  for (const int64_t n : {2, 4, 8, 12, 20, 24, 96}) {
    for (const int64_t inner : {2, 3, 4, 5, 8, 16, 17, 64}) {
      compare_with_dense<float>(n, inner, false);
      compare_with_dense<float>(n, inner, true);
      compare_with_dense<double>(n, inner, true);
    }
  }
}

TEST_P(HadamardApply, TransposeInvertsAndNormsStay) {
  for (const int64_t n : {16, 20, 172, 688, 1536, 4096}) {
    const HadamardPlan plan = hadamard_plan(n);
    const auto source = normals(n, 9);
    std::vector<double> x(source.begin(), source.end()), scratch(x.size());
    const std::vector<double> original = x;
    double before = 0, after = 0;
    for (const double v : x) before += v * v;
    apply(plan, x.data(), 1, scratch.data(), false);
    for (const double v : x) after += v * v;
    EXPECT_NEAR(after / before, 1.0, reordered<double>(static_cast<double>(n), 1, 1).absolute);
    apply(plan, x.data(), 1, scratch.data(), true);
    EXPECT_LE(relative_l2(x, original), 1e-14 * std::sqrt(static_cast<double>(n))) << n;
  }
}

TEST_P(HadamardApply, EveryIsaGivesTheSameBits) {
  for (const int64_t n : {8, 64, 172, 688, 4096}) {
    const HadamardPlan plan = hadamard_plan(n);
    auto x = normals(n * 3, 10), y = x;
    std::vector<float> scratch(x.size());
    apply(plan, x.data(), 3, scratch.data(), false);
    kernels_for(Isa::kGeneric)
        .hadamard_f32(plan, plan.signs.data(), y.data(), 3, scratch.data(), false);
    EXPECT_TRUE(same_bits(x, y)) << n;
  }
}

}  // namespace
}  // namespace ashlar::test
