#pragma once

// Included after one ISA header. Contracts: kernels/elementwise.h.

#include "kernels/simd/math_impl.h"

namespace ashlar {
namespace {

/// Calls f(i, n) for consecutive spans of n ≤ 16 elements.
template <typename F>
ASHLAR_INLINE void for_spans(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, static_cast<int64_t>(kLanes));
  if (i < n) f(i, n - i);
}
ASHLAR_INLINE Vf vload_span(const float* p, int64_t n) {
  return n == kLanes ? vload(p) : vload_n(p, n);
}
ASHLAR_INLINE void vstore_span(float* p, int64_t n, Vf a) {
  if (n == kLanes) {
    vstore(p, a);
  } else {
    vstore_n(p, n, a);
  }
}

/// Σ x² over 64 interleaved chains, then a tree: the order depends on n only.
float sum_squares(const float* x, int64_t n) {
  Vf a[4] = {vzero(), vzero(), vzero(), vzero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) {
      const Vf v = vload(x + i + c * kLanes);
      a[c] = vfma(v, v, a[c]);
    }
  }
  for (int c = 0; i < n; ++c, i += kLanes) {
    const Vf v = vload_span(x + i, n - i < kLanes ? n - i : kLanes);
    a[c] = vfma(v, v, a[c]);
  }
  return vsum(vadd(vadd(a[0], a[1]), vadd(a[2], a[3])));
}

void rms_norm_kernel(const float* x, const float* gain, double eps, int64_t n, float* y) {
  const double mean = static_cast<double>(sum_squares(x, n)) / static_cast<double>(n);
  const Vf inverse = vset(static_cast<float>(1.0 / __builtin_sqrt(mean + eps)));
  for_spans(n, [&](int64_t i, int64_t m) {
    vstore_span(y + i, m, vmul(vmul(vload_span(x + i, m), inverse), vload_span(gain + i, m)));
  });
}

/// Σ over 64 interleaved chains, then a tree, of x (kSquares false; shift is 0) or (x − shift)².
template <bool kSquares>
float sum_deviations(const float* x, float shift, int64_t n) {
  const Vf mean = vset(shift);
  Vf a[4] = {vzero(), vzero(), vzero(), vzero()};
  const auto add = [&](int c, const float* p) {
    const Vf v = vload(p);
    if constexpr (kSquares) {
      const Vf d = vsub(v, mean);
      a[c] = vfma(d, d, a[c]);
    } else {
      a[c] = vadd(a[c], v);
    }
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) add(c, x + i + c * kLanes);
  }
  int c = 0;
  for (; i + kLanes <= n; ++c, i += kLanes) add(c, x + i);
  if (i < n) {
    // Lanes beyond the row deviate by nothing.
    float rest[kLanes];
    vstore(rest, mean);
    for (int64_t j = 0; i + j < n; ++j) rest[j] = x[i + j];
    add(c, rest);
  }
  return vsum(vadd(vadd(a[0], a[1]), vadd(a[2], a[3])));
}

void layer_norm_kernel(const float* x, const float* gain, const float* bias, double eps, int64_t n,
                       float* y) {
  const auto count = static_cast<double>(n);
  const auto mean = static_cast<float>(static_cast<double>(sum_deviations<false>(x, 0, n)) / count);
  const double variance = static_cast<double>(sum_deviations<true>(x, mean, n)) / count;
  const Vf inverse = vset(static_cast<float>(1.0 / __builtin_sqrt(variance + eps)));
  const Vf shift = vset(mean);
  for_spans(n, [&](int64_t i, int64_t m) {
    const Vf centred = vmul(vsub(vload_span(x + i, m), shift), inverse);
    const Vf scaled = vmul(centred, vload_span(gain + i, m));
    vstore_span(y + i, m, bias == nullptr ? scaled : vadd(scaled, vload_span(bias + i, m)));
  });
}

void gelu_kernel(const float* x, int64_t n, float* y) {
  for_spans(n, [&](int64_t i, int64_t m) {
    const Vf v = vload_span(x + i, m);
    const Vf e = verf(vmul(v, vset(0.70710678118654752f)));
    vstore_span(y + i, m, vmul(vmul(v, vset(0.5f)), vadd(vset(1.0f), e)));
  });
}

void relu2_kernel(const float* x, int64_t n, float* y) {
  for_spans(n, [&](int64_t i, int64_t m) {
    const Vf v = vmax(vzero(), vload_span(x + i, m));  // NaN stays NaN
    vstore_span(y + i, m, vmul(v, v));
  });
}

void swiglu_kernel(const float* gate, const float* up, int64_t n, float* y) {
  for_spans(n, [&](int64_t i, int64_t m) {
    const Vf g = vload_span(gate + i, m);
    const Vf one = vset(1.0f);
    const Vf sigmoid = vdiv(one, vadd(one, vexp(vsub(vzero(), g))));
    vstore_span(y + i, m, vmul(vmul(g, sigmoid), vload_span(up + i, m)));
  });
}

void add_inplace_kernel(float* y, const float* x, int64_t n) {
  for_spans(n, [&](int64_t i, int64_t m) {
    vstore_span(y + i, m, vadd(vload_span(y + i, m), vload_span(x + i, m)));
  });
}

void rope_apply_kernel(float* x, int64_t heads, int64_t stride, int64_t dim, const float* cos_in,
                       const float* sin_in) {
  const int64_t half = dim / 2;
  for (int64_t h = 0; h < heads; ++h) {
    float* a = x + h * stride;
    float* b = a + half;
    for_spans(half, [&](int64_t i, int64_t m) {
      const Vf c = vload_span(cos_in + i, m), s = vload_span(sin_in + i, m);
      const Vf u = vload_span(a + i, m), v = vload_span(b + i, m);
      vstore_span(a + i, m, vsub(vmul(u, c), vmul(v, s)));
      vstore_span(b + i, m, vadd(vmul(v, c), vmul(u, s)));
    });
  }
}

int64_t argmax_kernel(const float* x, int64_t n) {
  Vf best = vset(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = vmax(vload(x + i), best);  // NaN never wins
  float top = vmax_all(best);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  for (int64_t j = 0; j < n; ++j) {
    if (x[j] == top) return j;
  }
  return 0;
}

void exp_kernel(const float* x, int64_t n, float* y) {
  for_spans(n, [&](int64_t i, int64_t m) { vstore_span(y + i, m, vexp(vload_span(x + i, m))); });
}

void erf_kernel(const float* x, int64_t n, float* y) {
  for_spans(n, [&](int64_t i, int64_t m) { vstore_span(y + i, m, verf(vload_span(x + i, m))); });
}

}  // namespace
}  // namespace ashlar
