#pragma once

#include "attention/isa/row_lanes.h"

// Attention over at most kShortRows positions, whole rows in registers and stack: the token decoder
// of a Block Transformer runs thousands of such rows, for which matrix products are all overhead.

namespace ashlar::rows {
namespace {

// Scores of one query against up to 16 keys at once: Σ_e q[e]·k[j][e] for all j, from keys laid out
// as [dim][16].
template <typename T>
struct ShortScores {
  static constexpr int64_t kParts = kShortRows / kLanes<T>;
  Lanes<T> part[kParts];

  ASHLAR_INLINE void set(const T* q, const Accumulate<T>* turned, int64_t dim) {
    for (int64_t i = 0; i < kParts; ++i) part[i] = Lanes<T>{};
    for (int64_t e = 0; e < dim; ++e) {
      const Accumulate<T> x = get(q + e);
      for (int64_t i = 0; i < kParts; ++i) {
        Lanes<T> column;
        load(turned + e * kShortRows + i * kLanes<T>, column);
        part[i] += x * column;
      }
    }
  }
  ASHLAR_INLINE void copy_to(Accumulate<T>* out) const {
    for (int64_t i = 0; i < kParts; ++i) store(out + i * kLanes<T>, part[i]);
  }
};

template <typename T>
ASHLAR_INLINE void turn(const T* x, Accumulate<T>* out, int64_t positions, int64_t stride,
                        int64_t dim) {
  for (int64_t e = 0; e < dim; ++e) {
    for (int64_t t = 0; t < kShortRows; ++t) {
      out[e * kShortRows + t] = t < positions ? get(x + t * stride + e) : Accumulate<T>{};
    }
  }
}

// Probabilities of query `t` over keys 0…t, zero behind.
template <typename T>
ASHLAR_INLINE void short_softmax(const T* q, const Accumulate<T>* keys, int64_t dim, int64_t t,
                                 Accumulate<T> scale, Accumulate<T>* p) {
  ShortScores<T> scores;
  scores.set(q, keys, dim);
  scores.copy_to(p);
  Accumulate<T> top = p[0];
  for (int64_t j = 1; j <= t; ++j) top = p[j] > top ? p[j] : top;
  for (int64_t i = 0; i < ShortScores<T>::kParts; ++i) {
    store(p + i * kLanes<T>, exponential((scores.part[i] - top) * scale));
  }
  Accumulate<T> sum = 0;
  for (int64_t j = 0; j <= t; ++j) sum += p[j];
  for (int64_t j = 0; j <= t; ++j) p[j] /= sum;
  for (int64_t j = t + 1; j < kShortRows; ++j) p[j] = 0;
}

// y[e] (+)= Σ_{j ≤ last} weight[j]·x[j][e]
template <typename T, typename Out>
ASHLAR_INLINE void mix(const Accumulate<T>* weight, const T* x, int64_t stride, int64_t last,
                       int64_t dim, Out* y) {
  constexpr int64_t kStep = kLanes<T>;
  int64_t e = 0;
  for (; e + kStep <= dim; e += kStep) {
    Lanes<T> sum{}, a;
    for (int64_t j = 0; j <= last; ++j) {
      load(x + j * stride + e, a);
      sum += weight[j] * a;
    }
    store(y + e, sum);
  }
  for (; e < dim; ++e) {
    Accumulate<T> sum = 0;
    for (int64_t j = 0; j <= last; ++j) sum += weight[j] * get(x + j * stride + e);
    put(y + e, sum);
  }
}

// y[e] += weight·x[e] in the accumulate type.
template <typename T>
ASHLAR_INLINE void add_scaled(Accumulate<T> weight, const T* x, int64_t dim, Accumulate<T>* y) {
  constexpr int64_t kStep = kLanes<T>;
  int64_t e = 0;
  for (; e + kStep <= dim; e += kStep) {
    Lanes<T> a, b;
    load(x + e, a);
    load(y + e, b);
    store(y + e, b + weight * a);
  }
  for (; e < dim; ++e) y[e] += weight * get(x + e);
}

template <typename T>
void short_attention_rows(const T* q, const T* k, const T* v, T* out, int64_t rows,
                          int64_t positions, int64_t heads, int64_t kv_heads, int64_t dim,
                          double factor) {
  using A = Accumulate<T>;
  alignas(64) A keys[kShortRows * kShortDim], p[kShortRows];
  const int64_t wide = heads * dim, narrow = kv_heads * dim, share = heads / kv_heads;
  const auto scale = static_cast<A>(factor);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < kv_heads; ++g) {
      turn(k + g * dim, keys, positions, narrow, dim);
      for (int64_t h = g * share; h < (g + 1) * share; ++h) {
        for (int64_t t = 0; t < positions; ++t) {
          short_softmax(q + t * wide + h * dim, keys, dim, t, scale, p);
          mix(p, v + g * dim, narrow, t, dim, out + t * wide + h * dim);
        }
      }
    }
    q += positions * wide;
    out += positions * wide;
    k += positions * narrow;
    v += positions * narrow;
  }
}

template <typename T>
void short_attention_backward_rows(const T* q, const T* k, const T* v, const T* dout, T* dq, T* dk,
                                   T* dv, int64_t rows, int64_t positions, int64_t heads,
                                   int64_t kv_heads, int64_t dim, double factor) {
  using A = Accumulate<T>;
  alignas(64) A keys[kShortRows * kShortDim], values[kShortRows * kShortDim];
  alignas(64) A key_sums[kShortRows * kShortDim], value_sums[kShortRows * kShortDim];
  alignas(64) A p[kShortRows], dp[kShortRows];
  const int64_t wide = heads * dim, narrow = kv_heads * dim, share = heads / kv_heads;
  const auto scale = static_cast<A>(factor);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < kv_heads; ++g) {
      turn(k + g * dim, keys, positions, narrow, dim);
      turn(v + g * dim, values, positions, narrow, dim);
      for (int64_t i = 0; i < positions * dim; ++i) key_sums[i] = value_sums[i] = 0;
      for (int64_t h = g * share; h < (g + 1) * share; ++h) {
        for (int64_t t = 0; t < positions; ++t) {
          const int64_t at = t * wide + h * dim;
          short_softmax(q + at, keys, dim, t, scale, p);
          ShortScores<T> upstream;
          upstream.set(dout + at, values, dim);
          upstream.copy_to(dp);
          A dot = 0;
          for (int64_t j = 0; j <= t; ++j) dot += p[j] * dp[j];
          for (int64_t j = 0; j <= t; ++j) {
            add_scaled(p[j], dout + at, dim, value_sums + j * dim);
            dp[j] = scale * p[j] * (dp[j] - dot);
            add_scaled(dp[j], q + at, dim, key_sums + j * dim);
          }
          mix(dp, k + g * dim, narrow, t, dim, dq + at);
        }
      }
      for (int64_t t = 0; t < positions; ++t) {
        for (int64_t e = 0; e < dim; ++e) {
          put(dk + t * narrow + g * dim + e, key_sums[t * dim + e]);
          put(dv + t * narrow + g * dim + e, value_sums[t * dim + e]);
        }
      }
    }
    q += positions * wide;
    dout += positions * wide;
    dq += positions * wide;
    k += positions * narrow;
    v += positions * narrow;
    dk += positions * narrow;
    dv += positions * narrow;
  }
}

}  // namespace
}  // namespace ashlar::rows
