#include "attention/row_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "core/base/dtype.h"
#include "core/base/rng.h"
#include "tests/support/tolerance.h"

// Each kernel against double loops written from its equation, at widths around the lane count.

namespace ashlar::rows {
namespace {

const int64_t kWidths[] = {1, 2, 7, 15, 16, 17, 31, 48, 100};

template <typename T>
T make(double v) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return Bf16{float_to_bfloat(static_cast<float>(v))};
  } else {
    return static_cast<T>(v);
  }
}
double read(double v) { return v; }
double read(float v) { return static_cast<double>(v); }
double read(Bf16 v) { return static_cast<double>(bfloat_to_float(v.bits)); }

template <typename T>
std::vector<T> draw(int64_t count, uint64_t seed, double scale = 1) {
  std::vector<T> out;
  const Philox random(seed);
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(make<T>(scale * random.normal(static_cast<uint64_t>(i))));
  }
  return out;
}
template <typename T>
std::vector<double> wide(const std::vector<T>& v) {
  std::vector<double> out;
  for (const T& x : v) out.push_back(read(x));
  return out;
}

// Rounding of the result type plus a reordered sum in the accumulate type; `norm` bounds Σ|a·b|.
template <typename T>
test::Bound bound(double terms, double norm) {
  test::Bound b = test::reordered<Accumulate<T>>(terms + 16, norm);
  if (std::is_same_v<T, Bf16>) b.absolute += norm * 0x1p-8;
  return b;
}
double largest(const std::vector<double>& v) {
  double top = 1;
  for (double x : v) top = std::max(top, std::abs(x));
  return top;
}

template <typename T>
class RowKernels : public ::testing::Test {};
using Types = ::testing::Types<float, double, Bf16>;
TYPED_TEST_SUITE(RowKernels, Types);

TYPED_TEST(RowKernels, RmsNormAndItsGradient) {
  using T = TypeParam;
  using A = Accumulate<T>;
  constexpr int64_t kRows = 3;
  constexpr double kEps = 1e-5;
  for (const int64_t d : kWidths) {
    const auto x = draw<T>(kRows * d, 1), dy = draw<T>(kRows * d, 2), skip = draw<T>(kRows * d, 3);
    const auto gain = draw<A>(d, 4, 2.0);
    std::vector<T> y(x.size()), dx(x.size());
    std::vector<A> inverse(kRows), dgain(static_cast<size_t>(d), A{0.5});
    rms_norm<T>(x.data(), gain.data(), y.data(), inverse.data(), kRows, d, kEps);
    rms_norm_backward<T>(x.data(), gain.data(), inverse.data(), dy.data(), skip.data(), dx.data(),
                         dgain.data(), kRows, d);
    std::vector<double> ey, edx, edg(static_cast<size_t>(d), 0.5);
    for (int64_t r = 0; r < kRows; ++r) {
      const auto at = [&](const auto& v, int64_t i) {
        return read(v[static_cast<size_t>(r * d + i)]);
      };
      double square = 0, dot = 0;
      for (int64_t i = 0; i < d; ++i) square += at(x, i) * at(x, i);
      const double scale = 1 / std::sqrt(square / static_cast<double>(d) + kEps);
      for (int64_t i = 0; i < d; ++i) {
        const double g = read(gain[static_cast<size_t>(i)]);
        dot += at(dy, i) * g * at(x, i);
        edg[static_cast<size_t>(i)] += at(dy, i) * at(x, i) * scale;
        ey.push_back(at(x, i) * scale * g);
      }
      for (int64_t i = 0; i < d; ++i) {
        const double g = read(gain[static_cast<size_t>(i)]);
        edx.push_back(at(dy, i) * g * scale -
                      at(x, i) * dot * scale * scale * scale / static_cast<double>(d) +
                      at(skip, i));
      }
    }
    const auto n = static_cast<double>(d);
    EXPECT_TRUE(test::within(wide(y), ey, bound<T>(n, largest(ey)))) << d;
    EXPECT_TRUE(test::within(wide(dx), edx, bound<T>(n, 4 * largest(edx)))) << d;
    EXPECT_TRUE(test::within(wide(dgain), edg, test::reordered<A>(n + 16, 4 * largest(edg)))) << d;
  }
}

TYPED_TEST(RowKernels, RotationTurnsHalvesAndBack) {
  using T = TypeParam;
  using A = Accumulate<T>;
  constexpr int64_t kRows = 5, kPositions = 3, kHeads = 2;
  for (const int64_t half : kWidths) {
    const HeadPart part{half * 2 + 5, 2, half * 2};
    const auto x = draw<T>(kRows * kHeads * part.dim, 1);
    const auto angle = draw<double>(kPositions * half, 2, 3.0);
    std::vector<A> c, s;
    for (double a : angle) {
      c.push_back(static_cast<A>(std::cos(a)));
      s.push_back(static_cast<A>(std::sin(a)));
    }
    std::vector<T> y(x.size()), back(x.size());
    rotate<T>(x.data(), y.data(), c.data(), s.data(), 1, kRows, kPositions, kHeads, part, 1);
    rotate<T>(y.data(), back.data(), c.data(), s.data(), 1, kRows, kPositions, kHeads, part, -1);
    std::vector<double> expected = wide(x);  // what does not turn stays
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          const auto a = static_cast<size_t>((r * kHeads + h) * part.dim + part.offset + i);
          const auto b = a + static_cast<size_t>(half);
          const double t = angle[static_cast<size_t>((r + 1) % kPositions * half + i)];
          expected[a] = read(x[a]) * std::cos(t) - read(x[b]) * std::sin(t);
          expected[b] = read(x[a]) * std::sin(t) + read(x[b]) * std::cos(t);
        }
      }
    }
    EXPECT_TRUE(test::within(wide(y), expected, bound<T>(2, 2 * largest(expected)))) << half;
    EXPECT_TRUE(test::within(wide(back), wide(x), bound<T>(4, 4 * largest(expected)))) << half;
  }
}

TYPED_TEST(RowKernels, SwigluAndItsGradient) {
  using T = TypeParam;
  for (const int64_t n : kWidths) {
    auto gate = draw<T>(n, 1, 4.0);
    if (n > 2) gate[1] = make<T>(-200.0);  // σ underflows to zero, nothing becomes NaN
    if (n > 2) gate[2] = make<T>(200.0);
    const auto up = draw<T>(n, 2), dy = draw<T>(n, 3);
    std::vector<T> y(gate.size()), dgate(gate.size()), dup(gate.size());
    swiglu<T>(gate.data(), up.data(), y.data(), n);
    swiglu_backward<T>(gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), n);
    std::vector<double> ey, eg, eu;
    for (size_t i = 0; i < gate.size(); ++i) {
      const double g = read(gate[i]), u = read(up[i]), d = read(dy[i]), s = 1 / (1 + std::exp(-g));
      ey.push_back(g * s * u);
      eu.push_back(d * g * s);
      eg.push_back(d * u * (s + g * s * (1 - s)));
    }
    EXPECT_TRUE(test::within(wide(y), ey, bound<T>(1, largest(ey)))) << n;
    EXPECT_TRUE(test::within(wide(dup), eu, bound<T>(1, largest(eu)))) << n;
    EXPECT_TRUE(test::within(wide(dgate), eg, bound<T>(1, 4 * largest(eg)))) << n;
  }
}

TYPED_TEST(RowKernels, CrossEntropyAndItsGradient) {
  using T = TypeParam;
  constexpr int64_t kRows = 4;
  for (const LossShape& shape :
       {LossShape{}, LossShape{3.0, 0.0}, LossShape{0.0, 0.02}, LossShape{20.0, 0.02}}) {
    for (const int64_t classes : kWidths) {
      auto logits = draw<T>(kRows * classes, 1, 5.0);
      if (classes > 1) logits[1] = make<T>(90.0);
      const auto before = wide(logits);
      std::vector<int64_t> targets;
      for (int64_t r = 0; r < kRows; ++r) targets.push_back((r * 7) % classes);
      const std::vector<float> weights = {1.0f, 0.5f, 0.0f, 2.0f};
      std::vector<double> loss(kRows), expected_loss, expected;
      cross_entropy<T>(logits.data(), targets.data(), weights.data(), loss.data(), kRows, classes,
                       shape, true);
      double curve = 1;  // what the extra terms multiply roundings by
      for (int64_t r = 0; r < kRows; ++r) {
        std::vector<double> row(before.begin() + r * classes, before.begin() + (r + 1) * classes);
        std::vector<double> slope(row.size(), 1.0);
        for (size_t i = 0; shape.softcap > 0 && i < row.size(); ++i) {
          const double t = std::tanh(row[i] / shape.softcap);
          row[i] = shape.softcap * t;
          slope[i] = 1 - t * t;
        }
        double top = row[0], sum = 0;
        for (double v : row) top = std::max(top, v);
        for (double v : row) sum += std::exp(v - top);
        const double lse = std::log(sum) + top;
        const auto target = static_cast<size_t>(targets[static_cast<size_t>(r)]);
        const auto weight = static_cast<double>(weights[static_cast<size_t>(r)]);
        expected_loss.push_back(weight * (lse - row[target] + shape.z * lse * lse));
        const double pull = 1 + 2 * shape.z * lse;
        curve = std::max({curve, pull, shape.softcap});
        for (size_t i = 0; i < row.size(); ++i) {
          const double p = std::exp(row[i] - lse) * pull - (i == target ? 1.0 : 0.0);
          expected.push_back(weight * p * slope[i]);
        }
      }
      const std::string name = fmt::format("cap {} z {} n {}", shape.softcap, shape.z, classes);
      // A capped logit is stored in T, so its rounding reaches the loss.
      const double stored = shape.softcap > 0 ? bound<T>(1, 4 * shape.softcap).absolute : 0;
      test::Bound near =
          test::reordered<Accumulate<T>>(static_cast<double>(classes) + 16, largest(expected_loss));
      near.absolute += stored;
      EXPECT_TRUE(test::within(loss, expected_loss, near)) << name;
      EXPECT_TRUE(
          test::within(wide(logits), expected, bound<T>(static_cast<double>(classes), 2 * curve)))
          << name;
    }
  }
}

TYPED_TEST(RowKernels, CausalSoftmaxAndItsGradient) {
  using T = TypeParam;
  constexpr int64_t kRows = 5;
  constexpr double kScale = 0.25;
  for (const int64_t columns : kWidths) {
    const int64_t first = std::max<int64_t>(0, columns - kRows), stride = columns + 3;
    auto p = draw<T>(kRows * stride, 1, 5.0);
    auto dp = draw<T>(kRows * stride, 2);
    const auto scores = wide(p), upstream = wide(dp);
    causal_softmax<T>(p.data(), kRows, stride, columns, first, kScale);
    causal_softmax_backward<T>(p.data(), dp.data(), kRows, stride, columns, first, kScale);
    auto ep = scores, edp = upstream;  // the gap between rows must stay untouched
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t kept = std::min(columns, first + r + 1);
      double sum = 0, dot = 0;
      const auto at = [&](int64_t i) { return static_cast<size_t>(r * stride + i); };
      for (int64_t i = 0; i < kept; ++i) sum += std::exp(scores[at(i)] * kScale);
      for (int64_t i = 0; i < columns; ++i) {
        ep[at(i)] = i < kept ? std::exp(scores[at(i)] * kScale) / sum : 0;
        dot += ep[at(i)] * upstream[at(i)];
      }
      for (int64_t i = 0; i < columns; ++i) {
        edp[at(i)] = kScale * ep[at(i)] * (upstream[at(i)] - dot);
      }
    }
    const auto n = static_cast<double>(columns);
    EXPECT_TRUE(test::within(wide(p), ep, bound<T>(n, 2))) << columns;
    EXPECT_TRUE(test::within(wide(dp), edp, bound<T>(n, 4 * largest(edp)))) << columns;
  }
}

}  // namespace
}  // namespace ashlar::rows
