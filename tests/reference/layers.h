#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/hadamard.h"
#include "models/spec/spec.h"

// The equations of single layers, one number at a time: RMSNorm (arXiv 1910.07467), LayerNorm
// (1607.06450), RoPE (2104.09864) and its stretched forms, softmax attention with windows and
// sinks, activations.

namespace ashlar::test {

template <typename Real>
using Vector = std::vector<Real>;
template <typename Real>
using Matrix = std::vector<std::vector<Real>>;

template <typename Real>
Vector<Real> times(const Vector<Real>& matrix, const Vector<Real>& x) {
  const size_t in = x.size(), out = matrix.size() / in;
  Vector<Real> y(out, Real(0));
  for (size_t n = 0; n < out; ++n) {
    for (size_t k = 0; k < in; ++k) y[n] += matrix[n * in + k] * x[k];
  }
  return y;
}

template <typename Real>
void add(Vector<Real>& y, const Vector<Real>& x) {
  for (size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}

template <typename Real>
Vector<Real> rms_norm(const Vector<Real>& x, const Vector<Real>& gain, double eps) {
  Real square = 0;
  for (Real v : x) square += v * v;
  const Real scale = Real(1) / std::sqrt(square / Real(x.size()) + Real(eps));
  Vector<Real> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * gain[i];
  return y;
}

template <typename Real>
Vector<Real> layer_norm(const Vector<Real>& x, const Vector<Real>& gain, double eps) {
  Real mean = 0, square = 0;
  for (Real v : x) mean += v / Real(x.size());
  for (Real v : x) square += (v - mean) * (v - mean);
  Vector<Real> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) / std::sqrt(square / Real(x.size()) + Real(eps)) * gain[i];
  }
  return y;
}

/// x (viewed as [n, inner]) ← Σ_a x[a, :]·H[a, b]/√n, by the dense ±1 matrix.
template <typename Real>
void hadamard(Vector<Real>& x, size_t offset, int64_t n, int64_t inner) {
  const std::vector<int8_t> h = hadamard_matrix(n);
  Vector<Real> y(static_cast<size_t>(n * inner), Real(0));
  for (int64_t b = 0; b < n; ++b) {
    for (int64_t i = 0; i < inner; ++i) {
      Real sum = 0;
      for (int64_t a = 0; a < n; ++a) {
        sum += x[offset + static_cast<size_t>(a * inner + i)] *
               Real(h[static_cast<size_t>(a * n + b)]);
      }
      y[static_cast<size_t>(b * inner + i)] = sum / std::sqrt(Real(n));
    }
  }
  std::copy(y.begin(), y.end(), x.begin() + static_cast<std::ptrdiff_t>(offset));
}

/// Angle per position of pair i, and what cosines and sines are multiplied by.
inline double rope_frequency(const RopeSpec& rope, int64_t i, double& magnitude) {
  const auto dim = static_cast<double>(rope.dim), pair = static_cast<double>(i);
  const double plain = 1.0 / std::pow(rope.theta, 2 * pair / dim);
  const RopeScaling& s = rope.scaling;
  const auto original = static_cast<double>(s.original_context);
  magnitude = 1;
  if (s.kind == RopeScalingKind::kLinear) return plain / s.factor;
  if (s.kind == RopeScalingKind::kLlama3) {
    const double turns = original * plain / (2 * std::numbers::pi);  // within the old context
    if (turns < s.low_freq_factor) return plain / s.factor;
    if (turns > s.high_freq_factor) return plain;
    const double smooth = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    return plain * ((1 - smooth) / s.factor + smooth);
  }
  if (s.kind == RopeScalingKind::kYarn) {
    const auto bound = [&](double turns) {
      return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
    };
    const double low = std::max(0.0, std::floor(bound(s.beta_fast)));
    const double high = std::min(dim - 1, std::ceil(bound(s.beta_slow)));
    const double width = high == low ? 0.001 : high - low;
    const double ramp = std::min(1.0, std::max(0.0, (pair - low) / width));
    magnitude = 0.1 * std::log(s.factor) + 1;
    return plain * (1 - ramp) + plain / s.factor * ramp;
  }
  return plain;
}

/// Turns dimensions [offset, offset + rope.dim) of every head of `width`.
template <typename Real>
void turn(Vector<Real>& x, int64_t width, int64_t offset, const RopeSpec& rope, int64_t position) {
  const int64_t half = rope.dim / 2;
  for (int64_t base = offset; base < static_cast<int64_t>(x.size()); base += width) {
    for (int64_t i = 0; i < half; ++i) {
      double magnitude = 1;
      const double angle = static_cast<double>(position) * rope_frequency(rope, i, magnitude);
      Real& a = x[static_cast<size_t>(base + i)];
      Real& b = x[static_cast<size_t>(base + i + half)];
      const Real c = Real(std::cos(angle) * magnitude), s = Real(std::sin(angle) * magnitude);
      const Real old = a;
      a = old * c - b * s;
      b = b * c + old * s;
    }
  }
}

/// Σ_j p_j·value_j over rows [first, last], p = softmax(scale·q·key_j), with one more logit `sink`
/// in the denominator if given.
template <typename Real>
Vector<Real> softmax_mix(const Vector<Real>& q, const Matrix<Real>& keys,
                         const Matrix<Real>& values, size_t first, size_t last, Real scale,
                         const Real* sink) {
  Vector<Real> p;
  Real top = sink != nullptr ? *sink : -INFINITY;
  for (size_t j = first; j <= last; ++j) {
    Real dot = 0;
    for (size_t i = 0; i < q.size(); ++i) dot += q[i] * keys[j][i];
    p.push_back(dot * scale);
    top = std::max(top, p.back());
  }
  Real total = sink != nullptr ? std::exp(*sink - top) : Real(0);
  for (Real& v : p) total += v = std::exp(v - top);
  Vector<Real> out(values[first].size(), Real(0));
  for (size_t j = first; j <= last; ++j) {
    for (size_t i = 0; i < out.size(); ++i) out[i] += p[j - first] / total * values[j][i];
  }
  return out;
}

template <typename Real>
Real activation(FfnKind kind, Real x) {
  switch (kind) {
    case FfnKind::kSwiGlu:
      return x / (Real(1) + std::exp(-x));
    case FfnKind::kGelu:
      return x * Real(0.5) * (Real(1) + std::erf(x / std::sqrt(Real(2))));
    case FfnKind::kRelu2:
      return x > 0 ? x * x : Real(0);
  }
  return x;
}

}  // namespace ashlar::test
