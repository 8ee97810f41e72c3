#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "attention/row_kernels.h"

// What one GPU thread of a team does for one row (formulas: attention/row_kernels.h). Functions of
// both host and device: a test runs the same arithmetic on the CPU, with a team of one. A Team has
// lane(), size(), and sum() and max() over its lanes, which are barriers too.

#ifdef __CUDACC__
#define ASHLAR_BOTH __host__ __device__ inline
#else
#define ASHLAR_BOTH inline
#endif

namespace ashlar::cuda {

using rows::Bf16;

ASHLAR_BOTH float widen(float x) { return x; }
ASHLAR_BOTH float widen(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  memcpy(&out, &bits, sizeof(out));
  return out;
}

ASHLAR_BOTH void store(float* to, float x) { *to = x; }
// To nearest, ties to even; NaN stays one.
ASHLAR_BOTH void store(Bf16* to, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : rounded);
}

template <typename Team, typename T>
ASHLAR_BOTH void rms_norm_row(const Team& team, const T* x, const float* gain, T* y, float* inverse,
                              int64_t width, float eps) {
  float sum = 0;
  for (int64_t i = team.lane(); i < width; i += team.size()) {
    const float a = widen(x[i]);
    sum += a * a;
  }
  const float r = 1.0f / sqrtf(team.sum(sum) / static_cast<float>(width) + eps);
  if (team.lane() == 0) *inverse = r;
  for (int64_t i = team.lane(); i < width; i += team.size()) {
    store(y + i, widen(x[i]) * r * gain[i]);
  }
}

/// `residual` may be null.
template <typename Team, typename T>
ASHLAR_BOTH void rms_norm_backward_row(const Team& team, const T* x, const float* gain,
                                       float inverse, const T* dy, const T* residual, T* dx,
                                       int64_t width) {
  float dot = 0;
  for (int64_t i = team.lane(); i < width; i += team.size()) {
    dot += widen(dy[i]) * gain[i] * widen(x[i]);
  }
  const float share = team.sum(dot) * inverse * inverse * inverse / static_cast<float>(width);
  for (int64_t i = team.lane(); i < width; i += team.size()) {
    float out = inverse * widen(dy[i]) * gain[i] - widen(x[i]) * share;
    if (residual != nullptr) out += widen(residual[i]);
    store(dx + i, out);
  }
}

/// Σ over rows of dy∘x·r at one column.
template <typename T>
ASHLAR_BOTH float gain_gradient(const T* x, const T* dy, const float* inverse, int64_t rows,
                                int64_t width, int64_t column) {
  float sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = r * width + column;
    sum += widen(dy[at]) * widen(x[at]) * inverse[r];
  }
  return sum;
}

/// Slots of a head: pairs that turn, then dimensions that stay.
ASHLAR_BOTH int64_t rotation_slots(const rows::HeadPart& part) {
  return part.dim - part.turned / 2;
}

/// x, y: one head; cosine, sine [turned/2] of its position. `direction` 1 or −1.
template <typename T>
ASHLAR_BOTH void rotate_slot(const T* x, T* y, const float* cosine, const float* sine, int64_t slot,
                             const rows::HeadPart& part, float direction) {
  const int64_t half = part.turned / 2;
  if (slot >= half) {
    const int64_t rest = slot - half, at = rest < part.offset ? rest : rest + part.turned;
    y[at] = x[at];
    return;
  }
  const int64_t i = part.offset + slot, j = i + half;
  const float a = widen(x[i]), b = widen(x[j]), c = cosine[slot], s = direction * sine[slot];
  store(y + i, a * c - b * s);
  store(y + j, b * c + a * s);
}

ASHLAR_BOTH float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T>
ASHLAR_BOTH void swiglu_element(const T* gate, const T* up, T* y, int64_t i) {
  const float g = widen(gate[i]);
  store(y + i, g * sigmoid(g) * widen(up[i]));
}

template <typename T>
ASHLAR_BOTH void swiglu_backward_element(const T* gate, const T* up, const T* dy, T* dgate, T* dup,
                                         int64_t i) {
  const float g = widen(gate[i]), u = widen(up[i]), d = widen(dy[i]), s = sigmoid(g);
  store(dgate + i, d * u * s * (1.0f + g * (1.0f - s)));
  store(dup + i, d * g * s);
}

ASHLAR_BOTH float capped(float x, float cap) { return cap > 0 ? cap * tanhf(x / cap) : x; }

/// One row of the loss; `logits` become their derivative when `gradient`.
template <typename Team, typename T>
ASHLAR_BOTH void cross_entropy_row(const Team& team, T* logits, int64_t target, float weight,
                                   double* loss, int64_t classes, const rows::LossShape& shape,
                                   bool gradient) {
  const float cap = static_cast<float>(shape.softcap);
  const float chosen = capped(widen(logits[target]), cap);
  // Maximum and sum of exponentials in one pass: the sum is scaled whenever the maximum grows.
  float top = -INFINITY, sum = 0;
  for (int64_t i = team.lane(); i < classes; i += team.size()) {
    const float a = capped(widen(logits[i]), cap);
    if (a > top) {
      sum = sum * expf(top - a) + 1.0f;
      top = a;
    } else {
      sum += expf(a - top);
    }
  }
  const float all_top = team.max(top);
  const float all = team.sum(sum == 0 ? 0.0f : sum * expf(top - all_top));
  const double logarithm = log(static_cast<double>(all));
  const double lse = logarithm + static_cast<double>(all_top);
  if (team.lane() == 0) {
    *loss = static_cast<double>(weight) *
            (logarithm + static_cast<double>(all_top - chosen) + shape.z * lse * lse);
  }
  if (!gradient) return;
  const float scale = weight * static_cast<float>(1.0 + 2.0 * shape.z * lse) / all;
  const float curve = cap > 0 ? 1.0f / (cap * cap) : 0.0f;
  for (int64_t i = team.lane(); i < classes; i += team.size()) {
    const float a = capped(widen(logits[i]), cap);
    const float p = expf(a - all_top) * scale - (i == target ? weight : 0.0f);
    store(logits + i, p * (1.0f - a * a * curve));
  }
}

}  // namespace ashlar::cuda
