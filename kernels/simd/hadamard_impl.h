#pragma once

// Included after one ISA header. Contracts: kernels/hadamard.h. Only
// additions, subtractions and one final multiplication: every ISA gives the same bits.

#include "kernels/hadamard.h"
#include "kernels/simd/elementwise_impl.h"

namespace ashlar {
namespace {

/// (a, b) ← (a + b, a − b) element by element.
ASHLAR_INLINE void butterfly(float* a, float* b, int64_t n) {
  for_spans(n, [&](int64_t i, int64_t m) {
    const Vf u = vload_span(a + i, m), v = vload_span(b + i, m);
    vstore_span(a + i, m, vadd(u, v));
    vstore_span(b + i, m, vsub(u, v));
  });
}
ASHLAR_INLINE void butterfly(double* __restrict a, double* __restrict b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double u = a[i], v = b[i];
    a[i] = u + v;
    b[i] = u - v;
  }
}

/// Two stages at once, strides s and 2s, over four rows of s elements: a third fewer passes.
ASHLAR_INLINE void butterfly4(float* x, int64_t s) {
  for_spans(s, [&](int64_t i, int64_t m) {
    float* p = x + i;
    const Vf a = vload_span(p, m), b = vload_span(p + s, m);
    const Vf c = vload_span(p + 2 * s, m), d = vload_span(p + 3 * s, m);
    const Vf ab = vadd(a, b), ba = vsub(a, b), cd = vadd(c, d), dc = vsub(c, d);
    vstore_span(p, m, vadd(ab, cd));
    vstore_span(p + s, m, vadd(ba, dc));
    vstore_span(p + 2 * s, m, vsub(ab, cd));
    vstore_span(p + 3 * s, m, vsub(ba, dc));
  });
}
ASHLAR_INLINE void butterfly4(double* __restrict x, int64_t s) {
  for (int64_t i = 0; i < s; ++i) {
    double* p = x + i;
    const double ab = p[0] + p[s], ba = p[0] - p[s];
    const double cd = p[2 * s] + p[3 * s], dc = p[2 * s] - p[3 * s];
    p[0] = ab + cd;
    p[s] = ba + dc;
    p[2 * s] = ab - cd;
    p[3 * s] = ba - dc;
  }
}

/// Stage of stride H inside one register: lane i becomes x_i + x_{i^H}, or x_{i^H} − x_i in the
/// upper half.
template <int H>
ASHLAR_INLINE Vf lane_butterfly(Vf x) {
  return vadd(vswap<H>(x), vnegate_high<H>(x));
}

/// The stages of stride first, 2·first, … 8 over n elements, n a multiple of 16; first in 1, 2,
/// 4, 8.
ASHLAR_INLINE void lane_stages(float* x, int64_t n, int64_t first) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Vf v = vload(x + i);
    if (first <= 1) v = lane_butterfly<1>(v);
    if (first <= 2) v = lane_butterfly<2>(v);
    if (first <= 4) v = lane_butterfly<4>(v);
    v = lane_butterfly<8>(v);
    vstore(x + i, v);
  }
}
ASHLAR_INLINE void lane_stages(double* x, int64_t n, int64_t first) {
  for (int64_t s = first; s < kLanes; s *= 2) {
    for (int64_t i = 0; i < n; i += 2 * s) butterfly(x + i, x + i + s, s);
  }
}

/// Walsh–Hadamard (Sylvester order) along the first axis of x[rows, inner], rows a power of two.
template <typename Real>
void walsh(Real* x, int64_t rows, int64_t inner) {
  const int64_t n = rows * inner;
  int64_t s = inner;
  if (s < kLanes && (s & (s - 1)) == 0 && n >= kLanes) {
    lane_stages(x, n, s);
    s = kLanes;
  }
  for (; s * 4 <= n; s *= 4) {
    for (int64_t i = 0; i < n; i += 4 * s) butterfly4(x + i, s);
  }
  for (; s < n; s *= 2) {
    for (int64_t i = 0; i < n; i += 2 * s) butterfly(x + i, x + i + s, s);
  }
}

/// y ← Σ_j sign(j)·x[j, :] over `base` rows of `row` elements, columns [0, columns); signs are
/// sign_stride apart. The products are exact, so FMA and multiply-then-add agree.
ASHLAR_INLINE void signed_sum(const float* x, int64_t base, int64_t row, const int8_t* signs,
                              int64_t sign_stride, int64_t columns, float* y) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= columns; i += 4 * kLanes) {
    Vf a[4] = {vzero(), vzero(), vzero(), vzero()};
    for (int64_t j = 0; j < base; ++j) {
      const Vf s = vset(static_cast<float>(signs[j * sign_stride]));
      for (int c = 0; c < 4; ++c) a[c] = vfma(s, vload(x + j * row + i + c * kLanes), a[c]);
    }
    for (int c = 0; c < 4; ++c) vstore(y + i + c * kLanes, a[c]);
  }
  for_spans(columns - i, [&](int64_t k, int64_t m) {
    Vf a = vzero();
    for (int64_t j = 0; j < base; ++j) {
      const Vf s = vset(static_cast<float>(signs[j * sign_stride]));
      a = vfma(s, vload_span(x + j * row + i + k, m), a);
    }
    vstore_span(y + i + k, m, a);
  });
}
ASHLAR_INLINE void signed_sum(const double* x, int64_t base, int64_t row, const int8_t* signs,
                              int64_t sign_stride, int64_t columns, double* __restrict y) {
  for (int64_t i = 0; i < columns; ++i) y[i] = 0;
  for (int64_t j = 0; j < base; ++j) {
    const double s = signs[j * sign_stride];
    const double* row_j = x + j * row;
    for (int64_t i = 0; i < columns; ++i) y[i] += s * row_j[i];
  }
}

ASHLAR_INLINE void scale_into(const float* x, float factor, int64_t n, float* y) {
  const Vf f = vset(factor);
  for_spans(n, [&](int64_t i, int64_t m) { vstore_span(y + i, m, vmul(vload_span(x + i, m), f)); });
}
ASHLAR_INLINE void scale_into(const double* x, double factor, int64_t n, double* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

/// x[n, inner] along its first axis, n = base·2^m: FWHT within each of `base` slabs, then H_base
/// (or its transpose) across slabs, then 1/√n.
template <typename Real>
void hadamard_kernel(const HadamardPlan& plan, const int8_t* signs, Real* x, int64_t inner,
                     Real* scratch, bool transpose) {
  const int64_t base = plan.base;
  const int64_t slab = plan.n / base * inner;
  const int64_t total = plan.n * inner;
  const Real factor = static_cast<Real>(1.0 / __builtin_sqrt(static_cast<double>(plan.n)));
  for (int64_t b = 0; b < base; ++b) walsh(x + b * slab, plan.n / base, inner);
  if (base == 1) {
    scale_into(x, factor, total, x);
    return;
  }
  // y_i = Σ_j x_j·H[j][i]; the transpose reads rows of H.
  for (int64_t i = 0; i < base; ++i) {
    const int8_t* column = transpose ? signs + i * base : signs + i;
    signed_sum(x, base, slab, column, transpose ? 1 : base, slab, scratch + i * slab);
  }
  scale_into(scratch, factor, total, x);
}

void hadamard_f32_kernel(const HadamardPlan& plan, const int8_t* signs, float* x, int64_t inner,
                         float* scratch, bool transpose) {
  hadamard_kernel(plan, signs, x, inner, scratch, transpose);
}
void hadamard_f64_kernel(const HadamardPlan& plan, const int8_t* signs, double* x, int64_t inner,
                         double* scratch, bool transpose) {
  hadamard_kernel(plan, signs, x, inner, scratch, transpose);
}

}  // namespace
}  // namespace ashlar
