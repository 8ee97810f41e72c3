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

/// The sign of H_base that takes input slab j to output slab i: H[j][i], or H[i][j] transposed.
struct Signs {
  const int8_t* h;
  int64_t base;
  bool transpose;
  ASHLAR_INLINE float operator()(int64_t j, int64_t i) const {
    return static_cast<float>(transpose ? h[i * base + j] : h[j * base + i]);
  }
};

/// Columns [column, column + 16·C) of output slabs [i, i + R): y_i ← Σ_j sign(j, i)·x_j, j
/// ascending. The products are exact, so FMA and multiply-then-add agree. `last` elements of the
/// last register exist.
template <int R, int C>
ASHLAR_INLINE void signed_block(const float* x, const Signs& signs, int64_t slab, int64_t i,
                                int64_t column, int64_t last, float* y) {
  Vf a[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) a[r][c] = vzero();
  }
  for (int64_t j = 0; j < signs.base; ++j) {
    const float* row = x + j * slab + column;
    Vf v[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      v[c] = c + 1 < C ? vload(row + c * kLanes) : vload_span(row + c * kLanes, last);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vf s = vset(signs(j, i + r));
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) a[r][c] = vfma(s, v[c], a[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = y + (i + r) * slab + column;
#pragma GCC unroll 16
    for (int c = 0; c + 1 < C; ++c) vstore(out + c * kLanes, a[r][c]);
    vstore_span(out + (C - 1) * kLanes, last, a[r][C - 1]);
  }
}

/// y[base, slab] ← H-combination of x[base, slab]; base is a multiple of 4.
void signed_sums(const float* x, const Signs& signs, int64_t slab, float* y) {
  constexpr int kRows = kSignedRows, kColumns = kSignedColumns;
  for (int64_t i = 0; i < signs.base; i += kRows) {
    int64_t column = 0;
    for (; column + kColumns * kLanes <= slab; column += kColumns * kLanes) {
      signed_block<kRows, kColumns>(x, signs, slab, i, column, kLanes, y);
    }
    for (; column < slab; column += kLanes) {
      const int64_t left = slab - column;
      signed_block<kRows, 1>(x, signs, slab, i, column, left < kLanes ? left : kLanes, y);
    }
  }
}
void signed_sums(const double* x, const Signs& signs, int64_t slab, double* __restrict y) {
  for (int64_t i = 0; i < signs.base; ++i) {
    double* out = y + i * slab;
    for (int64_t c = 0; c < slab; ++c) out[c] = 0;
    for (int64_t j = 0; j < signs.base; ++j) {
      const double s = signs(j, i);
      const double* row = x + j * slab;
      for (int64_t c = 0; c < slab; ++c) out[c] += s * row[c];
    }
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
  signed_sums(x, Signs{signs, base, transpose}, slab, scratch);
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
