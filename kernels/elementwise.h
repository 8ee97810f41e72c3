#pragma once

#include <cstdint>

namespace ashlar {

/// RMSNorm of one row: y = x · gain / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019). The sum of
/// squares is accumulated in a fixed order. y may alias x.
void rms_norm(const float* x, const float* gain, double eps, int64_t n, float* y);

/// SwiGLU gate: y[i] = gate[i]·sigmoid(gate[i])·up[i]; y may alias either.
void swiglu(const float* gate, const float* up, int64_t n, float* y);

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
