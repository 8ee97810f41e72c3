#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/error.h"
#include "tests/kernels/kernel_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

const int64_t kSizes[] = {1, 2, 7, 15, 16, 17, 63, 64, 65, 172, 288, 1000, 4096, 4099};

class Elementwise : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, Elementwise, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST_P(Elementwise, RmsNormMatchesTheEquation) {
  for (const int64_t n : kSizes) {
    const auto x = normals(n, 1, 3.0), gain = normals(n, 2);
    std::vector<double> want(static_cast<size_t>(n));
    double squares = 0, largest = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (size_t i = 0; i < want.size(); ++i) {
      want[i] = x[i] * inverse * gain[i];
      largest = std::max(largest, std::abs(want[i]));
    }
    std::vector<float> got(x.size());
    kernels().rms_norm(x.data(), gain.data(), 1e-5, n, got.data());
    // n/64 + tree terms in the sum, half of whose relative error reaches the root; 3 roundings.
    EXPECT_TRUE(within(got, want, reordered<float>(static_cast<double>(n) / 64 + 8, largest, 1)))
        << n;
    std::vector<float> alias = x;
    kernels().rms_norm(alias.data(), gain.data(), 1e-5, n, alias.data());
    EXPECT_TRUE(same_bits(alias, got)) << n;
  }
}

TEST_P(Elementwise, RmsNormOfZerosIsZero) {
  const std::vector<float> x(100, 0.0f), gain(100, 2.0f);
  std::vector<float> y(100, 1.0f);
  kernels().rms_norm(x.data(), gain.data(), 1e-5, 100, y.data());
  EXPECT_TRUE(within(y, x, exact()));
}

TEST_P(Elementwise, SwigluMatchesTheEquation) {
  for (const int64_t n : kSizes) {
    const auto gate = normals(n, 3, 5.0), up = normals(n, 4);
    std::vector<float> got(gate.size());
    kernels().swiglu(gate.data(), up.data(), n, got.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double want = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
      const Bound bound = reordered<float>(6, std::abs(want), 1);  // exp 2 ulp, four more roundings
      EXPECT_NEAR(got[i], want, bound.absolute) << bound.reason << " gate " << gate[i];
    }
    std::vector<float> alias = up;
    kernels().swiglu(gate.data(), alias.data(), n, alias.data());
    EXPECT_TRUE(same_bits(alias, got));
  }
}

TEST_P(Elementwise, SwigluSaturates) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {-1000, -100, 0, 100, 1000, inf}, up(6, 2.0f);
  std::vector<float> y(6);
  kernels().swiglu(gate.data(), up.data(), 6, y.data());
  EXPECT_NEAR(y[1], -200 * std::exp(-100.0), 1e-40);  // subnormal or zero
  const std::vector<float> want = {-0.0f, y[1], 0, 200, 2000, inf};
  EXPECT_TRUE(within(y, want, exact()));
}

TEST_P(Elementwise, ExpIsAccurateToTwoUlp) {
  std::vector<float> x;
  for (double v = -87.3; v < 88.7; v += 0.00137) x.push_back(static_cast<float>(v));
  std::vector<float> y(x.size());
  kernels().exp(x.data(), static_cast<int64_t>(x.size()), y.data());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    const double ulp =
        std::nextafter(static_cast<float>(want), std::numeric_limits<float>::infinity()) -
        static_cast<float>(want);
    worst = std::max(worst, std::abs(y[i] - want) / ulp);
  }
  EXPECT_LE(worst, 2.0);
  RecordProperty("worst_ulp_1000", static_cast<int>(worst * 1000));
}

TEST_P(Elementwise, ExpAtTheEdges) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {0.0f, -0.0f, -inf, inf, 88.73f, 1e30f, -104.5f, -1e30f};
  const std::vector<float> want = {1, 1, 0, inf, inf, inf, 0, 0};
  std::vector<float> y(x.size());
  kernels().exp(x.data(), static_cast<int64_t>(x.size()), y.data());
  EXPECT_TRUE(within(y, want, exact()));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  kernels().exp(&nan, 1, y.data());
  EXPECT_TRUE(std::isnan(y[0]));
  // Gradual underflow: within one unit of the smallest subnormal plus the relative error.
  for (float v = -103.0f; v < -87.3f; v += 0.21f) {
    kernels().exp(&v, 1, y.data());
    const double e = std::exp(static_cast<double>(v));
    EXPECT_NEAR(y[0], e, 0x1p-149 + e * 0x1p-22) << v;
  }
}

// Absolute deviations: of the mean n/64 + tree terms, then those of the squares.
TEST_P(Elementwise, LayerNormMatchesTheEquation) {
  for (const int64_t n : kSizes) {
    auto x = normals(n, 11, 3.0);
    for (float& v : x) v += 2.0f;
    const auto gain = normals(n, 12), bias = normals(n, 13);
    for (const bool with_bias : {false, true}) {
      std::vector<double> want(static_cast<size_t>(n));
      double mean = 0, squares = 0, largest = 0;
      for (const float v : x) mean += static_cast<double>(v) / static_cast<double>(n);
      for (const float v : x) squares += (v - mean) * (v - mean);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
      for (size_t i = 0; i < want.size(); ++i) {
        want[i] = (x[i] - mean) * inverse * gain[i] + (with_bias ? bias[i] : 0.0f);
        // What a rounding of the mean does to an element, at most.
        const double error = (std::abs(x[i]) + std::abs(mean)) * inverse * std::abs(gain[i]);
        largest = std::max({largest, std::abs(want[i]), error});
      }
      std::vector<float> got(x.size());
      const float* shift = with_bias ? bias.data() : nullptr;
      kernels().layer_norm(x.data(), gain.data(), shift, 1e-5, n, got.data());
      EXPECT_TRUE(within(got, want, reordered<float>(static_cast<double>(n) / 64 + 8, largest, 2)))
          << n;
      std::vector<float> alias = x;
      kernels().layer_norm(alias.data(), gain.data(), shift, 1e-5, n, alias.data());
      EXPECT_TRUE(same_bits(alias, got)) << n;
    }
  }
}

TEST_P(Elementwise, LayerNormOfAConstantIsTheBias) {
  for (const int64_t n : kSizes) {
    const std::vector<float> x(static_cast<size_t>(n), 0.75f), gain(x.size(), 2.0f);
    const auto bias = normals(n, 14);
    std::vector<float> y(x.size());
    kernels().layer_norm(x.data(), gain.data(), bias.data(), 1e-5, n, y.data());
    EXPECT_TRUE(within(y, bias, exact())) << n;
  }
}

double ulps(float got, double want) {
  const float near = std::abs(static_cast<float>(want));
  const double ulp = std::nextafter(near, std::numeric_limits<float>::infinity()) - near;
  return std::abs(got - want) / ulp;
}

// Every 997th float of either sign, then NaN and the edges.
TEST_P(Elementwise, ErfIsAccurateOverTheWholeRange) {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const uint32_t word = bits | sign;
      float v = 0;
      std::memcpy(&v, &word, 4);
      x.push_back(v);
    }
  }
  std::vector<float> y(x.size());
  kernels().erf(x.data(), static_cast<int64_t>(x.size()), y.data());
  double worst = 0, at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i]) < 1e-37f) {  // the product with 2/√π is subnormal: rounded once more
      const double e = std::erf(static_cast<double>(x[i]));
      EXPECT_NEAR(y[i], e, 0x1p-149 + std::abs(e) * 0x1p-22) << x[i];
      continue;
    }
    const double off = ulps(y[i], std::erf(static_cast<double>(x[i])));
    if (off > worst) worst = off, at = x[i];
  }
  EXPECT_LE(worst, GetParam() == Isa::kGeneric ? 3.0 : 2.0) << at;
  RecordProperty("worst_ulp_1000", static_cast<int>(worst * 1000));
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> edges = {0.0f, -0.0f, inf, -inf, 4.0f, -1e30f};
  const std::vector<float> want = {0.0f, -0.0f, 1, -1, 1, -1};
  kernels().erf(edges.data(), 6, y.data());
  EXPECT_TRUE(same_bits({y.begin(), y.begin() + 6}, want));
  for (const float nan : {std::nanf(""), -std::nanf("")}) {
    kernels().erf(&nan, 1, y.data());
    EXPECT_TRUE(std::isnan(y[0]));
  }
}

TEST_P(Elementwise, GeluMatchesTheEquation) {
  for (const int64_t n : kSizes) {
    const auto x = normals(n, 15, 3.0);
    std::vector<float> got(x.size());
    kernels().gelu(x.data(), n, got.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = 0.5 * x[i] * std::erfc(-x[i] / std::sqrt(2.0));
      const Bound bound = reordered<float>(2, std::abs(x[i]), 1);
      EXPECT_NEAR(got[i], want, bound.absolute) << bound.reason << " x " << x[i];
    }
    std::vector<float> alias = x;
    kernels().gelu(alias.data(), n, alias.data());
    EXPECT_TRUE(same_bits(alias, got));
  }
}

TEST_P(Elementwise, Relu2IsExact) {
  for (const int64_t n : kSizes) {
    const auto x = normals(n, 16);
    std::vector<float> want(x), got(x.size());
    for (float& v : want) v = v > 0 ? v * v : 0.0f;
    kernels().relu2(x.data(), n, got.data());
    EXPECT_TRUE(within(got, want, exact())) << n;
  }
  const float nan = std::nanf("");
  float y = 0;
  kernels().relu2(&nan, 1, &y);
  EXPECT_TRUE(std::isnan(y));
}

TEST_P(Elementwise, AddInplaceIsExact) {
  for (const int64_t n : kSizes) {
    const auto x = normals(n, 5);
    auto y = normals(n, 6);
    std::vector<float> want(y);
    for (size_t i = 0; i < want.size(); ++i) want[i] += x[i];
    kernels().add_inplace(y.data(), x.data(), n);
    EXPECT_TRUE(same_bits(y, want));
  }
}

TEST_P(Elementwise, RopeRotatesHalvesAndKeepsNorms) {
  for (const int64_t dim : {2, 6, 8, 32, 64, 66, 128}) {
    const int64_t heads = 3, half = dim / 2, stride = dim + 5;  // partial: the rest stays
    std::vector<float> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
    std::vector<double> frequency;
    for (int64_t i = 0; i < half; ++i) {
      frequency.push_back(
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim)));
    }
    rope_angles(77, frequency.data(), half, 1.0, cosine.data(), sine.data());
    const auto x = normals(heads * stride, 7);
    auto y = x;
    kernels().rope_apply(y.data(), heads, stride, dim, cosine.data(), sine.data());
    std::vector<double> want(x.begin(), x.end());
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            77 * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const size_t a = static_cast<size_t>(h * stride + i), b = a + static_cast<size_t>(half);
        want[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
        want[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
      }
    }
    EXPECT_TRUE(within(y, want, reordered<float>(2, 8.0, 1))) << dim;
  }
}

TEST_P(Elementwise, ArgmaxTakesTheLowestIndex) {
  for (const int64_t n : kSizes) {
    auto x = normals(n, 8);
    int64_t want = 0;
    for (int64_t i = 1; i < n; ++i) {
      if (x[static_cast<size_t>(i)] > x[static_cast<size_t>(want)]) want = i;
    }
    EXPECT_EQ(kernels().argmax(x.data(), n), want);
    x.assign(x.size(), -3.0f);
    EXPECT_EQ(kernels().argmax(x.data(), n), 0);
    x.back() = -2.0f;
    EXPECT_EQ(kernels().argmax(x.data(), n), n - 1);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x(40, nan);
  EXPECT_EQ(kernels().argmax(x.data(), 40), 0);
  x[33] = -1e30f;
  EXPECT_EQ(kernels().argmax(x.data(), 40), 33);
}

TEST(ElementwiseScalar, RopeAnglesRoundOnce) {
  float c[4], s[4];
  const double frequency[] = {1.0, 0.1, 0.01, 0.001};
  rope_angles(123456, frequency, 4, 1.25, c, s);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(c[i], static_cast<float>(1.25 * std::cos(123456 * frequency[i])));
    EXPECT_EQ(s[i], static_cast<float>(1.25 * std::sin(123456 * frequency[i])));
  }
  EXPECT_THROW(rope_apply(c, 1, 4, 3, c, s), Error);
}

TEST(ElementwiseScalar, SoftcapRoundsOnce) {
  std::vector<float> x = {-1000, -3, -1e-6f, 0, 2.5f, 1e30f};
  std::vector<float> want;
  for (const float v : x) want.push_back(static_cast<float>(30 * std::tanh(v / 30.0)));
  softcap(x.data(), 6, 30);
  EXPECT_TRUE(same_bits(x, want));
}

TEST(ElementwiseIsas, FmaIsasAgreeBitForBit) {
  const auto x = normals(1003, 17, 2.0), gain = normals(1003, 18), bias = normals(1003, 19);
  std::vector<std::vector<float>> want;
  for (const Isa isa : fma_isas()) {
    const KernelTable& k = kernels_for(isa);
    std::vector<std::vector<float>> got(3, std::vector<float>(1003));
    k.layer_norm(x.data(), gain.data(), bias.data(), 1e-5, 1003, got[0].data());
    k.gelu(x.data(), 1003, got[1].data());
    k.relu2(x.data(), 1003, got[2].data());
    if (want.empty()) want = got;
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(same_bits(got[i], want[i])) << isa_name(isa);
  }
}

TEST(ElementwiseScalar, LogSumExpIsStable) {
  const std::vector<float> x = {1000, 1000, 1000, 1000};
  EXPECT_DOUBLE_EQ(log_sum_exp(x.data(), 4), 1000 + std::log(4.0));
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> y = {-inf, 0, -inf};
  EXPECT_DOUBLE_EQ(log_sum_exp(y.data(), 3), 0.0);
  EXPECT_EQ(log_sum_exp(y.data(), 1), -inf);
}

}  // namespace
}  // namespace ashlar::test
