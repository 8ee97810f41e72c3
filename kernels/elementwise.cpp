#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "kernels/dispatch.h"

namespace ashlar {

void rms_norm(const float* x, const float* gain, double eps, int64_t n, float* y) {
  ASHLAR_CHECK_GE(n, 1);
  active_kernels().rms_norm(x, gain, eps, n, y);
}

void layer_norm(const float* x, const float* gain, const float* bias, double eps, int64_t n,
                float* y) {
  ASHLAR_CHECK_GE(n, 1);
  active_kernels().layer_norm(x, gain, bias, eps, n, y);
}

void gelu(const float* x, int64_t n, float* y) { active_kernels().gelu(x, n, y); }

void relu2(const float* x, int64_t n, float* y) { active_kernels().relu2(x, n, y); }

void softcap(float* x, int64_t n, double cap) {
  ASHLAR_CHECK(cap > 0);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = static_cast<float>(cap * std::tanh(static_cast<double>(x[i]) / cap));
  }
}

void swiglu(const float* gate, const float* up, int64_t n, float* y) {
  active_kernels().swiglu(gate, up, n, y);
}

void add_inplace(float* y, const float* x, int64_t n) { active_kernels().add_inplace(y, x, n); }

void rope_angles(int64_t position, const double* frequency, int64_t pairs, double magnitude,
                 float* cos_out, float* sin_out) {
  for (int64_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequency[i];
    cos_out[i] = static_cast<float>(magnitude * std::cos(angle));
    sin_out[i] = static_cast<float>(magnitude * std::sin(angle));
  }
}

void rope_apply(float* x, int64_t heads, int64_t stride, int64_t dim, const float* cos_in,
                const float* sin_in) {
  ASHLAR_CHECK_EQ(dim % 2, 0);
  active_kernels().rope_apply(x, heads, stride, dim, cos_in, sin_in);
}

int64_t argmax(const float* x, int64_t n) {
  ASHLAR_CHECK_GE(n, 1);
  return active_kernels().argmax(x, n);
}

double log_sum_exp(const float* x, int64_t n) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) top = std::max(top, x[i]);
  if (std::isinf(top)) return top;  // empty, all −∞, or a +∞
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - top);
  return top + std::log(sum);
}

}  // namespace ashlar
