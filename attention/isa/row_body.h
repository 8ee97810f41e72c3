#pragma once

#include <cmath>
#include <limits>

#include "attention/isa/row_lanes.h"

// The bodies of the row kernels, included once by each isa/<name>.cpp, which is compiled with that
// ISA's flags. Everything lives in an unnamed namespace, so that no symbol compiled for one ISA can
// stand in for another's.

namespace ashlar::rows {
namespace {

ASHLAR_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
void rms_norm_rows(const T* x, const Accumulate<T>* gain, T* y, Accumulate<T>* inverse_rms,
                   int64_t rows, int64_t width, double eps) {
  constexpr int64_t kStep = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    Lanes<T> sums{}, a, g;
    int64_t i = 0;
    for (; i + kStep <= width; i += kStep) {
      load(x + i, a);
      sums += a * a;
    }
    Accumulate<T> sum = fold(sums);
    for (; i < width; ++i) sum += get(x + i) * get(x + i);
    const Accumulate<T> scale =
        1 / std::sqrt(sum / static_cast<Accumulate<T>>(width) + static_cast<Accumulate<T>>(eps));
    inverse_rms[r] = scale;
    for (i = 0; i + kStep <= width; i += kStep) {
      load(x + i, a);
      load(gain + i, g);
      store(y + i, a * scale * g);
    }
    for (; i < width; ++i) put(y + i, get(x + i) * scale * gain[i]);
  }
}

template <typename T>
void rms_norm_backward_rows(const T* x, const Accumulate<T>* gain, const Accumulate<T>* inverse_rms,
                            const T* dy, const T* residual, T* dx, Accumulate<T>* dgain,
                            int64_t rows, int64_t width) {
  constexpr int64_t kStep = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const Accumulate<T> scale = inverse_rms[r];
    Lanes<T> dots{}, a, b, g, d;
    int64_t i = 0;
    for (; i + kStep <= width; i += kStep) {
      load(x + i, a);
      load(dy + i, b);
      load(gain + i, g);
      load(dgain + i, d);
      dots += a * b * g;
      store(dgain + i, d + a * b * scale);
    }
    Accumulate<T> dot = fold(dots);
    for (; i < width; ++i) {
      const Accumulate<T> product = get(x + i) * get(dy + i);
      dot += product * gain[i];
      dgain[i] += product * scale;
    }
    const Accumulate<T> pull = dot * scale * scale * scale / static_cast<Accumulate<T>>(width);
    for (i = 0; i + kStep <= width; i += kStep) {
      load(x + i, a);
      load(dy + i, b);
      load(gain + i, g);
      d = b * g * scale - a * pull;
      if (residual != nullptr) {
        load(residual + i, a);
        d += a;
      }
      store(dx + i, d);
    }
    for (; i < width; ++i) {
      Accumulate<T> value = get(dy + i) * gain[i] * scale - get(x + i) * pull;
      if (residual != nullptr) value += get(residual + i);
      put(dx + i, value);
    }
    x += width;
    dy += width;
    dx += width;
    if (residual != nullptr) residual += width;
  }
}

template <typename T>
void rotate_rows(const T* x, T* y, const Accumulate<T>* cosine, const Accumulate<T>* sine,
                 int64_t first_row, int64_t rows, int64_t positions, int64_t heads,
                 const HeadPart& part, int direction) {
  constexpr int64_t kStep = kLanes<T>;
  const int64_t half = part.turned / 2, behind = part.offset + part.turned;
  const auto sign = static_cast<Accumulate<T>>(direction);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = (first_row + r) % positions;
    const Accumulate<T>* c = cosine + position * half;
    const Accumulate<T>* s = sine + position * half;
    for (int64_t h = 0; h < heads; ++h, x += part.dim, y += part.dim) {
      for (int64_t i = 0; i < part.offset; ++i) y[i] = x[i];
      for (int64_t i = behind; i < part.dim; ++i) y[i] = x[i];
      const T* from = x + part.offset;
      T* to = y + part.offset;
      Lanes<T> a, b, cs, sn;
      int64_t i = 0;
      for (; i + kStep <= half; i += kStep) {
        load(from + i, a);
        load(from + half + i, b);
        load(c + i, cs);
        load(s + i, sn);
        sn *= sign;
        store(to + i, a * cs - b * sn);
        store(to + half + i, b * cs + a * sn);
      }
      for (; i < half; ++i) {
        const Accumulate<T> p = get(from + i), q = get(from + half + i), t = s[i] * sign;
        put(to + i, p * c[i] - q * t);
        put(to + half + i, q * c[i] + p * t);
      }
    }
  }
}

template <typename T>
void swiglu_span(const T* gate, const T* up, T* y, int64_t count) {
  constexpr int64_t kStep = kLanes<T>;
  Lanes<T> g, u;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    load(gate + i, g);
    load(up + i, u);
    store(y + i, g / (1 + exponential(-g)) * u);
  }
  for (; i < count; ++i) {
    const Accumulate<T> a = get(gate + i);
    put(y + i, a / (1 + exponential(-a)) * get(up + i));
  }
}

template <typename T>
void swiglu_backward_span(const T* gate, const T* up, const T* dy, T* dgate, T* dup,
                          int64_t count) {
  constexpr int64_t kStep = kLanes<T>;
  Lanes<T> g, u, d;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    load(gate + i, g);
    load(up + i, u);
    load(dy + i, d);
    const Lanes<T> s = 1 / (1 + exponential(-g));
    store(dup + i, d * g * s);
    store(dgate + i, d * u * s * (1 + g * (1 - s)));
  }
  for (; i < count; ++i) {
    const Accumulate<T> a = get(gate + i), b = get(up + i), c = get(dy + i);
    const Accumulate<T> s = 1 / (1 + exponential(-a));
    put(dup + i, c * a * s);
    put(dgate + i, c * b * s * (1 + a * (1 - s)));
  }
}

// Σ e^(x·scale − top) over a row, and the row's maximum first.
template <typename T>
ASHLAR_INLINE Accumulate<T> row_maximum(const T* x, int64_t count) {
  constexpr int64_t kStep = kLanes<T>;
  Accumulate<T> top = -std::numeric_limits<Accumulate<T>>::infinity();
  int64_t i = 0;
  if (count >= kStep) {
    Lanes<T> best, a;
    load(x, best);
    for (i = kStep; i + kStep <= count; i += kStep) {
      load(x + i, a);
      best = a > best ? a : best;
    }
    for (int64_t l = 0; l < kStep; ++l) top = best[l] > top ? best[l] : top;
  }
  for (; i < count; ++i) top = get(x + i) > top ? get(x + i) : top;
  return top;
}

// logits ← cap·tanh(logits/cap), by tanh u = 1 − 2/(e^2u + 1).
template <typename T>
void soft_cap(T* logits, int64_t classes, Accumulate<T> cap) {
  constexpr int64_t kStep = kLanes<T>;
  const Accumulate<T> twice = 2 / cap;
  Lanes<T> a;
  int64_t i = 0;
  for (; i + kStep <= classes; i += kStep) {
    load(logits + i, a);
    store(logits + i, cap - 2 * cap / (exponential(a * twice) + 1));
  }
  for (; i < classes; ++i)
    put(logits + i, cap - 2 * cap / (exponential(get(logits + i) * twice) + 1));
}

template <typename T>
void cross_entropy_rows(T* logits, const int64_t* targets, const float* weights, double* loss,
                        int64_t rows, int64_t classes, const LossShape& shape, bool gradient) {
  constexpr int64_t kStep = kLanes<T>;
  using A = Accumulate<T>;
  const auto cap = static_cast<A>(shape.softcap);
  // Derivative of the cap at its value a is 1 − (a/cap)².
  const A curve = cap > 0 ? 1 / (cap * cap) : A(0);
  for (int64_t r = 0; r < rows; ++r, logits += classes) {
    if (cap > 0) soft_cap(logits, classes, cap);
    const A top = row_maximum(logits, classes);
    Lanes<T> sums{}, a;
    int64_t i = 0;
    for (; i + kStep <= classes; i += kStep) {
      load(logits + i, a);
      sums += exponential(a - top);
    }
    A sum = fold(sums);
    for (; i < classes; ++i) sum += exponential(get(logits + i) - top);
    const int64_t target = targets[r];
    const A chosen = get(logits + target);
    const double lse = std::log(static_cast<double>(sum)) + static_cast<double>(top);
    loss[r] =
        static_cast<double>(weights[r]) * (std::log(static_cast<double>(sum)) +
                                           static_cast<double>(top - chosen) + shape.z * lse * lse);
    if (!gradient) continue;
    const auto weight = static_cast<A>(weights[r]);
    const A scale = weight * static_cast<A>(1 + 2 * shape.z * lse) / sum;
    for (i = 0; i + kStep <= classes; i += kStep) {
      load(logits + i, a);
      store(logits + i, exponential(a - top) * scale * (1 - a * a * curve));
    }
    for (; i < classes; ++i) {
      const A v = get(logits + i);
      put(logits + i, exponential(v - top) * scale * (1 - v * v * curve));
    }
    put(logits + target,
        (exponential(chosen - top) * scale - weight) * (1 - chosen * chosen * curve));
  }
}

template <typename T>
void causal_softmax_rows(T* scores, int64_t rows, int64_t stride, int64_t columns, int64_t first,
                         double scale) {
  constexpr int64_t kStep = kLanes<T>;
  const auto factor = static_cast<Accumulate<T>>(scale);
  for (int64_t r = 0; r < rows; ++r, scores += stride) {
    const int64_t kept = least(columns, first + r + 1);
    const Accumulate<T> top = row_maximum(scores, kept);
    Lanes<T> sums{}, a;
    int64_t i = 0;
    for (; i + kStep <= kept; i += kStep) {
      load(scores + i, a);
      a = exponential((a - top) * factor);
      sums += a;
      store(scores + i, a);
    }
    Accumulate<T> sum = fold(sums);
    for (; i < kept; ++i) {
      const Accumulate<T> e = exponential((get(scores + i) - top) * factor);
      sum += e;
      put(scores + i, e);
    }
    const Accumulate<T> inverse = 1 / sum;
    for (i = 0; i + kStep <= kept; i += kStep) {
      load(scores + i, a);
      store(scores + i, a * inverse);
    }
    for (; i < kept; ++i) put(scores + i, get(scores + i) * inverse);
    for (; i < columns; ++i) put(scores + i, 0);
  }
}

template <typename T>
void causal_softmax_backward_rows(const T* p, T* dp, int64_t rows, int64_t stride, int64_t columns,
                                  int64_t first, double scale) {
  constexpr int64_t kStep = kLanes<T>;
  const auto factor = static_cast<Accumulate<T>>(scale);
  for (int64_t r = 0; r < rows; ++r, p += stride, dp += stride) {
    const int64_t kept = least(columns, first + r + 1);
    Lanes<T> dots{}, a, b;
    int64_t i = 0;
    for (; i + kStep <= kept; i += kStep) {
      load(p + i, a);
      load(dp + i, b);
      dots += a * b;
    }
    Accumulate<T> dot = fold(dots);
    for (; i < kept; ++i) dot += get(p + i) * get(dp + i);
    for (i = 0; i + kStep <= kept; i += kStep) {
      load(p + i, a);
      load(dp + i, b);
      store(dp + i, a * (b - dot) * factor);
    }
    for (; i < kept; ++i) put(dp + i, get(p + i) * (get(dp + i) - dot) * factor);
    for (; i < columns; ++i) put(dp + i, 0);
  }
}

}  // namespace
}  // namespace ashlar::rows
