#pragma once

#include <cstdint>

namespace ashlar {

/// RMSNorm of one row: y = x · gain / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019). The sum of
/// squares is accumulated in a fixed order. y may alias x.
void rms_norm(const float* x, const float* gain, double eps, int64_t n, float* y);

/// LayerNorm of one row (Ba et al. 2016): y = (x − mean)/sqrt(variance + eps) · gain (+ bias unless
/// null), the variance from a second pass over the deviations; both sums in a fixed order. y may
/// alias x.
void layer_norm(const float* x, const float* gain, const float* bias, double eps, int64_t n,
                float* y);

/// SwiGLU gate: y[i] = gate[i]·sigmoid(gate[i])·up[i]; y may alias either.
void swiglu(const float* gate, const float* up, int64_t n, float* y);

/// Exact GELU: y[i] = x[i]·Φ(x[i]) by erf within 3 ulp, so the error is at most 2·eps·|x[i]|; y may
/// alias x.
void gelu(const float* x, int64_t n, float* y);

/// Squared ReLU (arXiv 2109.08668): y[i] = max(x[i], 0)²; y may alias x.
void relu2(const float* x, int64_t n, float* y);

/// x[i] = cap·tanh(x[i]/cap), computed in double and rounded once; cap > 0.
void softcap(float* x, int64_t n, double cap);

/// y[i] += x[i].
void add_inplace(float* y, const float* x, int64_t n);

/// magnitude·cos and magnitude·sin of position·frequency[i] for i < pairs, computed in double and
/// rounded once.
void rope_angles(int64_t position, const double* frequency, int64_t pairs, double magnitude,
                 float* cos_out, float* sin_out);

/// Rotates `heads` vectors of `dim`, `stride` floats apart, in place with half-split pairing:
/// (x_i, x_{i+dim/2}). dim is even.
void rope_apply(float* x, int64_t heads, int64_t stride, int64_t dim, const float* cos_in,
                const float* sin_in);

/// Index of the largest element, the lowest index on ties; n ≥ 1.
int64_t argmax(const float* x, int64_t n);

/// log Σ exp(x) in double, stable.
double log_sum_exp(const float* x, int64_t n);

}  // namespace ashlar
