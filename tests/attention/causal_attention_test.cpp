#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "attention/ops.h"
#include "core/base/rng.h"
#include "tests/support/tolerance.h"

// Both ways of the training attention (short rows, tiles) against double loops, values and
// gradients, at lengths around the border between them and around a tile.

namespace ashlar {
namespace {

struct Case {
  int64_t positions, heads, kv_heads, dim;
};

using Doubles = std::vector<double>;

at::Tensor draw(std::vector<int64_t> shape, uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kDouble);
  const Philox random(seed);
  for (int64_t i = 0; i < out.numel(); ++i) {
    out.data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
  }
  return out;
}

Doubles values(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(at::kDouble).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

struct Expected {
  Doubles out, dq, dk, dv;
};

// out = softmax(q·k/√E)·v and its derivatives along `u`, straight from the definitions.
Expected reference(const Case& c, int64_t batch, const Doubles& q, const Doubles& k,
                   const Doubles& v, const Doubles& u) {
  Expected e = {Doubles(q.size()), Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  const double scale = 1 / std::sqrt(static_cast<double>(c.dim));
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t g = h * c.kv_heads / c.heads;
      const auto at_q = [&](int64_t t, int64_t i) {
        return static_cast<size_t>(((b * c.positions + t) * c.heads + h) * c.dim + i);
      };
      const auto at_k = [&](int64_t t, int64_t i) {
        return static_cast<size_t>(((b * c.positions + t) * c.kv_heads + g) * c.dim + i);
      };
      for (int64_t t = 0; t < c.positions; ++t) {
        Doubles p(static_cast<size_t>(t + 1)), dp(p.size());
        double sum = 0, dot = 0;
        for (int64_t j = 0; j <= t; ++j) {
          double s = 0;
          for (int64_t i = 0; i < c.dim; ++i) s += q[at_q(t, i)] * k[at_k(j, i)];
          sum += p[static_cast<size_t>(j)] = std::exp(s * scale);
        }
        for (int64_t j = 0; j <= t; ++j) {
          const auto n = static_cast<size_t>(j);
          p[n] /= sum;
          for (int64_t i = 0; i < c.dim; ++i) {
            e.out[at_q(t, i)] += p[n] * v[at_k(j, i)];
            dp[n] += u[at_q(t, i)] * v[at_k(j, i)];
            e.dv[at_k(j, i)] += p[n] * u[at_q(t, i)];
          }
          dot += p[n] * dp[n];
        }
        for (int64_t j = 0; j <= t; ++j) {
          const double ds = scale * p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - dot);
          for (int64_t i = 0; i < c.dim; ++i) {
            e.dq[at_q(t, i)] += ds * k[at_k(j, i)];
            e.dk[at_k(j, i)] += ds * q[at_q(t, i)];
          }
        }
      }
    }
  }
  return e;
}

void check(const Case& c, at::ScalarType type) {
  constexpr int64_t kBatch = 3;
  const auto make = [&](int64_t heads, uint64_t seed) {
    return draw({kBatch, c.positions, heads, c.dim}, seed).to(type).set_requires_grad(true);
  };
  const at::Tensor q = make(c.heads, 1), k = make(c.kv_heads, 2), v = make(c.kv_heads, 3);
  const at::Tensor u = make(c.heads, 4).detach();
  const at::Tensor out = causal_attention(q, k, v);
  const auto gradients = torch::autograd::grad({out}, {q, k, v}, {u});
  const Expected e = reference(c, kBatch, values(q), values(k), values(v), values(u));
  const auto bound = [&](const Doubles& exact) {
    double top = 1;
    for (double x : exact) top = std::max(top, std::abs(x));
    const double terms = static_cast<double>(c.positions * c.heads + 4 * c.dim);
    test::Bound b = type == at::kDouble ? test::reordered<double>(terms, 8 * top)
                                        : test::reordered<float>(terms, 8 * top);
    if (type == at::kBFloat16) b.absolute += top * 0x1p-8;  // the result's own rounding
    return b;
  };
  const std::string name = fmt::format("T{} H{} G{} E{} {}", c.positions, c.heads, c.kv_heads,
                                       c.dim, c10::toString(type));
  EXPECT_TRUE(test::within(values(out), e.out, bound(e.out))) << name;
  EXPECT_TRUE(test::within(values(gradients[0]), e.dq, bound(e.dq))) << name;
  EXPECT_TRUE(test::within(values(gradients[1]), e.dk, bound(e.dk))) << name;
  EXPECT_TRUE(test::within(values(gradients[2]), e.dv, bound(e.dv))) << name;
}

TEST(CausalAttention, EqualsTheDefinitionAndItsDerivatives) {
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      for (const Case& c : {Case{1, 2, 1, 2}, Case{5, 6, 2, 32}, Case{16, 3, 3, 18},
                            Case{15, 1, 1, 128}, Case{17, 6, 2, 6}, Case{63, 4, 1, 16},
                            Case{65, 2, 2, 8}, Case{130, 4, 2, 4}, Case{4, 2, 1, 130}}) {
        check(c, type);
      }
    }
  }
}

// Rows before the tile of a NaN (short rows: before the NaN itself) never touch it.
TEST(CausalAttention, FutureTilesAreNeverRead) {
  for (const auto& [positions, safe] : {std::pair<int64_t, int64_t>{7, 6}, {70, 64}}) {
    const at::Tensor q = draw({1, positions, 2, 8}, 1), k = draw({1, positions, 2, 8}, 2);
    const at::Tensor v = draw({1, positions, 2, 8}, 3);
    const at::Tensor before = causal_attention(q, k, v);
    for (const at::Tensor& t : {k, v}) t.select(1, positions - 1).fill_(std::nan(""));
    const at::Tensor after = causal_attention(q, k, v);
    EXPECT_TRUE(after.narrow(1, 0, safe).equal(before.narrow(1, 0, safe)));
  }
}

}  // namespace
}  // namespace ashlar
