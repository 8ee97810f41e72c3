#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "attention/cuda/row_math.h"
#include "core/base/rng.h"
#include "tests/support/tolerance.h"

// The arithmetic of the GPU's row kernels, compiled for the host and run with a team of one,
// against the formulas in double. What this cannot show is the work of many threads together:
// gpu_test.cpp.

namespace ashlar {
namespace {

using Doubles = std::vector<double>;

struct TeamOfOne {
  int64_t lane() const { return 0; }
  int64_t size() const { return 1; }
  float sum(float x) const { return x; }
  float max(float x) const { return x; }
};

template <typename T>
class CudaRowMath : public ::testing::Test {
 public:
  static std::vector<T> draw(int64_t count, uint64_t seed, double scale = 1) {
    std::vector<T> out(static_cast<size_t>(count));
    const Philox random(seed);
    for (size_t i = 0; i < out.size(); ++i) {
      cuda::store(&out[i], static_cast<float>(scale * random.normal(i)));
    }
    return out;
  }
  static Doubles values(const std::vector<T>& v) {
    Doubles out;
    for (const T x : v) out.push_back(cuda::widen(x));
    return out;
  }
  // Sums of `terms` products no larger than `norm`, and the result's own rounding.
  static test::Bound bound(double terms, double norm) {
    test::Bound b = test::reordered<float>(terms, norm);
    if (std::is_same_v<T, rows::Bf16>) b.absolute += norm * 0x1p-8;
    return b;
  }
};

struct TypeNames {
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, float> ? "float" : "bf16";
  }
};
using Types = ::testing::Types<float, rows::Bf16>;
TYPED_TEST_SUITE(CudaRowMath, Types, TypeNames);

TEST(CudaRowMathBf16, RoundsToNearestEvenAndKeepsNan) {
  const auto rounded = [](float x) {
    rows::Bf16 out;
    cuda::store(&out, x);
    return cuda::widen(out);
  };
  EXPECT_EQ(rounded(1.0f), 1.0f);
  EXPECT_EQ(rounded(1.0f + 0x1p-8f), 1.0f);                // a tie, down to even
  EXPECT_EQ(rounded(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);  // a tie, up to even
  EXPECT_EQ(rounded(-1.0f - 0x1.8p-8f), -1.0f - 0x1p-7f);
  EXPECT_TRUE(std::isnan(rounded(std::nanf(""))));
  EXPECT_TRUE(std::isinf(rounded(INFINITY)));
}

TYPED_TEST(CudaRowMath, RmsNormAndItsGradient) {
  using T = TypeParam;
  constexpr int64_t kRows = 3, kWidth = 37;
  constexpr double kEps = 1e-3;
  const auto x = this->draw(kRows * kWidth, 1), dy = this->draw(kRows * kWidth, 2);
  const auto residual = this->draw(kRows * kWidth, 3);
  const auto drawn = CudaRowMath<float>::draw(kWidth, 4);
  std::vector<T> y(x.size()), dx(x.size());
  std::vector<float> inverse(kRows);
  Doubles want_y, want_dx, want_gain(kWidth), gain_out;
  const Doubles xs = this->values(x), ds = this->values(dy), rs = this->values(residual);
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t at = r * kWidth;
    const auto row = static_cast<size_t>(r);
    cuda::rms_norm_row(TeamOfOne(), x.data() + at, drawn.data(), y.data() + at, &inverse[row],
                       kWidth, static_cast<float>(kEps));
    cuda::rms_norm_backward_row(TeamOfOne(), x.data() + at, drawn.data(), inverse[row],
                                dy.data() + at, residual.data() + at, dx.data() + at, kWidth);
    double squares = 0, dot = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto e = static_cast<size_t>(at + i);
      squares += xs[e] * xs[e];
      dot += ds[e] * drawn[static_cast<size_t>(i)] * xs[e];
    }
    const double inv = 1 / std::sqrt(squares / kWidth + kEps);
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto e = static_cast<size_t>(at + i), c = static_cast<size_t>(i);
      want_y.push_back(xs[e] * inv * drawn[c]);
      want_dx.push_back(inv * ds[e] * drawn[c] - xs[e] * inv * inv * inv / kWidth * dot + rs[e]);
      want_gain[c] += ds[e] * xs[e] * inv;
    }
  }
  for (int64_t i = 0; i < kWidth; ++i) {
    gain_out.push_back(cuda::gain_gradient(x.data(), dy.data(), inverse.data(), kRows, kWidth, i));
  }
  EXPECT_TRUE(test::within(this->values(y), want_y, this->bound(kWidth, 16)));
  EXPECT_TRUE(test::within(this->values(dx), want_dx, this->bound(kWidth, 16)));
  EXPECT_TRUE(test::within(gain_out, want_gain, test::reordered<float>(kWidth + kRows, 16)));
}

TYPED_TEST(CudaRowMath, RotateTurnsPairsAndCopiesTheRest) {
  using T = TypeParam;
  for (const rows::HeadPart& part :
       {rows::HeadPart{8, 0, 8}, rows::HeadPart{10, 0, 4}, rows::HeadPart{11, 3, 6}}) {
    const int64_t half = part.turned / 2;
    const auto x = this->draw(part.dim, 1);
    std::vector<float> cosine, sine;
    for (int64_t i = 0; i < half; ++i) {
      cosine.push_back(std::cos(0.3f * static_cast<float>(i + 1)));
      sine.push_back(std::sin(0.3f * static_cast<float>(i + 1)));
    }
    const Doubles xs = this->values(x);
    for (const int direction : {1, -1}) {
      std::vector<T> y(x.size());
      for (int64_t slot = 0; slot < cuda::rotation_slots(part); ++slot) {
        cuda::rotate_slot(x.data(), y.data(), cosine.data(), sine.data(), slot, part,
                          static_cast<float>(direction));
      }
      Doubles want = xs;
      for (int64_t i = 0; i < half; ++i) {
        const auto a = static_cast<size_t>(part.offset + i),
                   b = static_cast<size_t>(part.offset + i + half);
        const double c = cosine[static_cast<size_t>(i)];
        const double s = direction * static_cast<double>(sine[static_cast<size_t>(i)]);
        want[a] = xs[a] * c - xs[b] * s;
        want[b] = xs[b] * c + xs[a] * s;
      }
      EXPECT_TRUE(test::within(this->values(y), want, this->bound(4, 4)));
    }
  }
}

TYPED_TEST(CudaRowMath, SwiGluAndItsGradient) {
  using T = TypeParam;
  const auto gate = this->draw(40, 1, 3), up = this->draw(40, 2), dy = this->draw(40, 3);
  std::vector<T> y(40), dgate(40), dup(40);
  Doubles want_y, want_gate, want_up;
  for (int64_t i = 0; i < 40; ++i) {
    cuda::swiglu_element(gate.data(), up.data(), y.data(), i);
    cuda::swiglu_backward_element(gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), i);
    const auto e = static_cast<size_t>(i);
    const double g = cuda::widen(gate[e]), u = cuda::widen(up[e]), d = cuda::widen(dy[e]);
    const double s = 1 / (1 + std::exp(-g));
    want_y.push_back(g * s * u);
    want_gate.push_back(d * u * (s + g * s * (1 - s)));
    want_up.push_back(d * g * s);
  }
  EXPECT_TRUE(test::within(this->values(y), want_y, this->bound(8, 16)));
  EXPECT_TRUE(test::within(this->values(dgate), want_gate, this->bound(8, 16)));
  EXPECT_TRUE(test::within(this->values(dup), want_up, this->bound(8, 16)));
}

TYPED_TEST(CudaRowMath, CrossEntropyAndItsGradient) {
  constexpr int64_t kClasses = 53, kTarget = 17;
  constexpr float kWeight = 0.75f;
  for (const rows::LossShape& shape :
       {rows::LossShape{}, rows::LossShape{4, 0}, rows::LossShape{0, 0.05}, {4, 0.05}}) {
    auto logits = this->draw(kClasses, 5, 3);
    const auto before = logits;
    double loss = 0;
    cuda::cross_entropy_row(TeamOfOne(), logits.data(), kTarget, kWeight, &loss, kClasses, shape,
                            false);
    EXPECT_EQ(this->values(logits), this->values(before));
    cuda::cross_entropy_row(TeamOfOne(), logits.data(), kTarget, kWeight, &loss, kClasses, shape,
                            true);
    const double cap = shape.softcap;
    Doubles a;
    double sum = 0;
    for (const double x : this->values(before)) {
      a.push_back(cap > 0 ? cap * std::tanh(x / cap) : x);
      sum += std::exp(a.back());
    }
    const double lse = std::log(sum);
    const double want = kWeight * (lse - a[kTarget] + shape.z * lse * lse);
    EXPECT_TRUE(test::within(Doubles{loss}, Doubles{want}, test::reordered<float>(kClasses, 16)));
    Doubles gradient;
    for (size_t i = 0; i < a.size(); ++i) {
      const double p = std::exp(a[i]) / sum * (1 + 2 * shape.z * lse);
      const double curve = cap > 0 ? 1 - a[i] * a[i] / (cap * cap) : 1;
      gradient.push_back(kWeight * (p - (i == kTarget ? 1 : 0)) * curve);
    }
    EXPECT_TRUE(test::within(this->values(logits), gradient, this->bound(kClasses, 1)));
  }
}

TYPED_TEST(CudaRowMath, NotANumberReachesTheLoss) {
  for (const size_t at : {0u, 5u}) {
    auto logits = this->draw(9, 1);
    cuda::store(&logits[at], std::nanf(""));
    double loss = 0;
    cuda::cross_entropy_row(TeamOfOne(), logits.data(), 3, 1.0f, &loss, 9, {}, false);
    EXPECT_TRUE(std::isnan(loss)) << at;
  }
}

}  // namespace
}  // namespace ashlar
