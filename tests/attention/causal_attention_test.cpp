#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "attention/backend.h"
#include "attention/ops.h"
#include "core/base/rng.h"
#include "tests/support/tolerance.h"

// Both ways of the training attention (short rows, tiles) against double loops, values and
// gradients, at lengths around the border between them and around a tile.

namespace ashlar {
namespace {

struct Case {
  int64_t positions, heads, kv_heads, dim;
  int64_t value_dim = 0;  // 0: dim
  int64_t window = 0;
  int64_t document = 0;  // > 0: a document begins at every multiple, shifted by the batch row
  bool sinks = false;
};

int64_t begin_of(const Case& c, int64_t b, int64_t t) {
  int64_t begin = c.window > 0 ? std::max<int64_t>(0, t - c.window + 1) : 0;
  if (c.document > 0) begin = std::max(begin, std::max<int64_t>(0, t - (t + b) % c.document));
  return begin;
}

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
  Doubles out, dq, dk, dv, dsinks;
};

// out = softmax(q·k/√E)·v and its derivatives along `u`, straight from the definitions.
Expected reference(const Case& c, int64_t batch, const Doubles& q, const Doubles& k,
                   const Doubles& v, const Doubles& u, const Doubles& sinks) {
  Expected e = {Doubles(u.size()), Doubles(q.size()), Doubles(k.size()), Doubles(v.size()),
                Doubles(sinks.size())};
  const int64_t value_dim = c.value_dim > 0 ? c.value_dim : c.dim;
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
      const auto at_u = [&](int64_t t, int64_t i) {
        return static_cast<size_t>(((b * c.positions + t) * c.heads + h) * value_dim + i);
      };
      const auto at_v = [&](int64_t t, int64_t i) {
        return static_cast<size_t>(((b * c.positions + t) * c.kv_heads + g) * value_dim + i);
      };
      for (int64_t t = 0; t < c.positions; ++t) {
        const int64_t first = begin_of(c, b, t);
        const double sink = c.sinks ? std::exp(sinks[static_cast<size_t>(h)]) : 0;
        Doubles p(static_cast<size_t>(t + 1)), dp(p.size());
        double sum = sink, dot = 0;
        for (int64_t j = first; j <= t; ++j) {
          double s = 0;
          for (int64_t i = 0; i < c.dim; ++i) s += q[at_q(t, i)] * k[at_k(j, i)];
          sum += p[static_cast<size_t>(j)] = std::exp(s * scale);
        }
        for (int64_t j = first; j <= t; ++j) {
          const auto n = static_cast<size_t>(j);
          p[n] /= sum;
          for (int64_t i = 0; i < value_dim; ++i) {
            e.out[at_u(t, i)] += p[n] * v[at_v(j, i)];
            dp[n] += u[at_u(t, i)] * v[at_v(j, i)];
            e.dv[at_v(j, i)] += p[n] * u[at_u(t, i)];
          }
          dot += p[n] * dp[n];
        }
        if (c.sinks) e.dsinks[static_cast<size_t>(h)] -= sink / sum * dot;
        for (int64_t j = first; j <= t; ++j) {
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

// Roundings of bf16 on the way of other devices, whose kernels may keep probabilities and their
// derivatives in it: two factors of each of two products.
constexpr double kBf16Roundings = 4;

// `generic`: by the operations that other devices take.
void check(const Case& c, at::ScalarType type, bool generic = false) {
  constexpr int64_t kBatch = 3;
  const int64_t value_dim = c.value_dim > 0 ? c.value_dim : c.dim;
  const auto make = [&](int64_t heads, int64_t dim, uint64_t seed) {
    return draw({kBatch, c.positions, heads, dim}, seed).to(type).set_requires_grad(true);
  };
  const at::Tensor q = make(c.heads, c.dim, 1), k = make(c.kv_heads, c.dim, 2);
  const at::Tensor v = make(c.kv_heads, value_dim, 3), u = make(c.heads, value_dim, 4).detach();
  AttentionMask mask;
  mask.window = c.window;
  if (c.document > 0) {
    mask.begin_BT = at::empty({kBatch, c.positions}, at::kInt);
    for (int64_t b = 0; b < kBatch; ++b) {
      for (int64_t t = 0; t < c.positions; ++t) {
        Case documents = c;
        documents.window = 0;
        mask.begin_BT.data_ptr<int32_t>()[b * c.positions + t] =
            static_cast<int32_t>(begin_of(documents, b, t));
      }
    }
  }
  const at::ScalarType gain_type = type == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor sinks = draw({c.heads}, 5).to(gain_type).set_requires_grad(true);
  if (c.sinks) mask.sinks_H = sinks;
  const at::Tensor out = causal_attention(q, k, v, mask);
  std::vector<at::Tensor> inputs = {q, k, v};
  if (c.sinks) inputs.push_back(sinks);
  const auto gradients = torch::autograd::grad({out}, inputs, {u});
  const Expected e =
      reference(c, kBatch, values(q), values(k), values(v), values(u), values(sinks));
  const auto bound = [&](const Doubles& exact) {
    double top = 1;
    for (double x : exact) top = std::max(top, std::abs(x));
    const double terms = static_cast<double>(c.positions * c.heads + 4 * c.dim);
    test::Bound b = type == at::kDouble ? test::reordered<double>(terms, 8 * top)
                                        : test::reordered<float>(terms, 8 * top);
    if (type == at::kBFloat16) b.absolute += top * 0x1p-8;  // the result's own rounding
    return b;
  };
  const std::string name =
      fmt::format("T{} H{} G{} E{} F{} W{} D{} sinks {} {}", c.positions, c.heads, c.kv_heads,
                  c.dim, value_dim, c.window, c.document, c.sinks, c10::toString(type));
  if (generic && type == at::kBFloat16) {
    const Doubles* exact[] = {&e.dq, &e.dk, &e.dv, &e.dsinks};
    EXPECT_LE(test::relative_l2(values(out), e.out), kBf16Roundings * 0x1p-8) << name;
    for (size_t i = 0; i < gradients.size(); ++i) {
      // A token that sees itself alone has no gradient but rounding.
      if (c.window == 1 && i < 2) continue;
      EXPECT_LE(test::relative_l2(values(gradients[i]), *exact[i]), kBf16Roundings * 0x1p-8)
          << name << " gradient " << i;
    }
    return;
  }
  EXPECT_TRUE(test::within(values(out), e.out, bound(e.out))) << name;
  EXPECT_TRUE(test::within(values(gradients[0]), e.dq, bound(e.dq))) << name;
  EXPECT_TRUE(test::within(values(gradients[1]), e.dk, bound(e.dk))) << name;
  EXPECT_TRUE(test::within(values(gradients[2]), e.dv, bound(e.dv))) << name;
  if (!c.sinks) return;
  test::Bound near = bound(e.dsinks);
  near.absolute *= static_cast<double>(kBatch * c.positions);  // summed over all queries
  EXPECT_TRUE(test::within(values(gradients[3]), e.dsinks, near)) << name;
}

TEST(CausalAttention, EqualsTheDefinitionAndItsDerivatives) {
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      for (const Case& c :
           {Case{1, 2, 1, 2}, Case{5, 6, 2, 32}, Case{16, 3, 3, 18}, Case{15, 1, 1, 128},
            Case{17, 6, 2, 6}, Case{63, 4, 1, 16}, Case{65, 2, 2, 8}, Case{130, 4, 2, 4},
            Case{4, 2, 1, 130}, Case{5, 4, 2, 6, 10}, Case{70, 2, 1, 12, 4}, Case{5, 4, 2, 6, 0, 3},
            Case{150, 4, 2, 6, 0, 1}, Case{150, 4, 2, 6, 0, 70}, Case{150, 4, 2, 6, 0, 0, 37},
            Case{150, 4, 2, 6, 0, 20, 37}, Case{7, 4, 2, 6, 0, 0, 0, true},
            Case{130, 4, 2, 6, 0, 0, 0, true}, Case{130, 4, 2, 6, 9, 50, 41, true}}) {
        check(c, type);
      }
    }
  }
}

TEST(CausalAttention, TheWayOfOtherDevicesToo) {
  const GenericOperations generic;
  at::set_num_threads(2);
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Case& c :
         {Case{2, 2, 1, 2}, Case{5, 6, 2, 32}, Case{65, 2, 2, 8}, Case{130, 4, 2, 4},
          Case{5, 4, 2, 6, 10}, Case{70, 2, 1, 12, 4}, Case{5, 4, 2, 6, 0, 3},
          Case{300, 2, 1, 6, 0, 1}, Case{300, 2, 1, 6, 0, 70}, Case{300, 2, 1, 6, 0, 0, 37},
          Case{300, 4, 2, 6, 0, 20, 37}, Case{7, 4, 2, 6, 0, 0, 0, true},
          Case{300, 4, 2, 6, 9, 50, 41, true}}) {
      check(c, type, true);
    }
  }
}

// Rows before the tile of a NaN (short rows: before the NaN itself) never touch it.
TEST(CausalAttention, FutureTilesAreNeverRead) {
  for (const auto& [positions, safe] : {std::pair<int64_t, int64_t>{7, 6}, {140, 128}}) {
    const at::Tensor q = draw({1, positions, 2, 8}, 1), k = draw({1, positions, 2, 8}, 2);
    const at::Tensor v = draw({1, positions, 2, 8}, 3);
    const at::Tensor before = causal_attention(q, k, v);
    for (const at::Tensor& t : {k, v}) t.select(1, positions - 1).fill_(std::nan(""));
    const at::Tensor after = causal_attention(q, k, v);
    EXPECT_TRUE(after.narrow(1, 0, safe).equal(before.narrow(1, 0, safe)));
  }
}

TEST(FullAttention, EveryQuerySeesEveryKey) {
  const at::Tensor q = draw({2, 5, 4, 6}, 1), k = draw({2, 3, 2, 6}, 2), v = draw({2, 3, 2, 6}, 3);
  const auto got = values(full_attention(q, k, v));
  const Doubles qs = values(q), ks = values(k), vs = values(v);
  Doubles want;
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t h = 0; h < 4; ++h) {
        const auto at = [&](int64_t j) {
          return static_cast<size_t>(((b * 3 + j) * 2 + h / 2) * 6);
        };
        Doubles p, mix(6);
        double sum = 0;
        for (int64_t j = 0; j < 3; ++j) {
          double s = 0;
          for (size_t i = 0; i < 6; ++i) {
            s += qs[static_cast<size_t>(((b * 5 + t) * 4 + h) * 6) + i] * ks[at(j) + i];
          }
          sum += p.emplace_back(std::exp(s / std::sqrt(6.0)));
        }
        for (int64_t j = 0; j < 3; ++j) {
          for (size_t i = 0; i < 6; ++i) mix[i] += p[static_cast<size_t>(j)] / sum * vs[at(j) + i];
        }
        want.insert(want.end(), mix.begin(), mix.end());
      }
    }
  }
  EXPECT_TRUE(test::within(got, want, test::reordered<double>(16, 4)));
}

}  // namespace
}  // namespace ashlar
