#pragma once

#include <cstdint>

// Row-wise primitives of training, forward and backward, on raw memory and without torch. Each is
// compiled for AVX-512, AVX2 and baseline x86-64 and chosen once per process (core/base/cpu.h); all
// perform the same IEEE operations in the same order, so results do not depend on the ISA.
// Every function works on the rows it is given: callers split rows over threads.

namespace ashlar::rows {

/// bfloat16 storage; arithmetic is done in float.
struct Bf16 {
  uint16_t bits;
};

/// The type sums and gains of `T` are kept in.
template <typename T>
struct AccumulateOf {
  using Type = float;
};
template <>
struct AccumulateOf<double> {
  using Type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::Type;

/// RMSNorm (arXiv 1910.07467, eq. 4): y = x · r · gain, r = (mean(x²) + eps)^-1/2. Shapes: x, y
/// [rows, width], gain [width], inverse_rms [rows]. T is float, double or Bf16.
template <typename T>
void rms_norm(const T* x, const Accumulate<T>* gain, T* y, Accumulate<T>* inverse_rms, int64_t rows,
              int64_t width, double eps);

/// dx = r·(dy∘gain) − x·r³/width·⟨dy∘gain, x⟩ (+ `residual`, the gradient that reaches x by the
/// skip connection, when not null) and dgain += dy∘x·r.
template <typename T>
void rms_norm_backward(const T* x, const Accumulate<T>* gain, const Accumulate<T>* inverse_rms,
                       const T* dy, const T* residual, T* dx, Accumulate<T>* dgain, int64_t rows,
                       int64_t width);

/// Which dimensions of a head RoPE turns: [offset, offset + turned) of dim; `turned` is even.
struct HeadPart {
  int64_t dim = 0, offset = 0, turned = 0;
};

/// Rotates the pairs (i, i + turned/2) of that part of each head by the row's angle and copies the
/// rest; `direction` −1 undoes it. x, y [rows, heads, dim] (may be the same memory); cosine, sine
/// [positions, turned/2]; row r has position (first_row + r) mod positions.
template <typename T>
void rotate(const T* x, T* y, const Accumulate<T>* cosine, const Accumulate<T>* sine,
            int64_t first_row, int64_t rows, int64_t positions, int64_t heads, const HeadPart& part,
            int direction);

/// SwiGLU (arXiv 2002.05202): y = gate·σ(gate)·up, elementwise over `count`.
template <typename T>
void swiglu(const T* gate, const T* up, T* y, int64_t count);
template <typename T>
void swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, int64_t count);

/// Options of the loss. softcap c > 0: logits become c·tanh(logits/c) (arXiv 2408.00118 §2); z > 0
/// adds z·lse² (arXiv 2204.02311 §5).
struct LossShape {
  double softcap = 0;
  double z = 0;
};

/// Softmax cross-entropy of one batch of rows: loss[r] = weight[r]·(lse − logit of the target +
/// z·lse²). When `gradient`, logits [rows, classes] are replaced by its derivative; they are
/// overwritten in any case. Targets must lie in [0, classes): the caller checks.
template <typename T>
void cross_entropy(T* logits, const int64_t* targets, const float* weights, double* loss,
                   int64_t rows, int64_t classes, const LossShape& shape, bool gradient);

/// Causal softmax in place: row r of scores [rows, stride] keeps columns [0, first + r], scaled by
/// `scale` before the exponential; the rest of `columns` become zero.
template <typename T>
void causal_softmax(T* scores, int64_t rows, int64_t stride, int64_t columns, int64_t first,
                    double scale);

/// dscores = scale · p ∘ (dp − ⟨dp, p⟩) over the kept columns, written over `dp`; zero elsewhere.
template <typename T>
void causal_softmax_backward(const T* p, T* dp, int64_t rows, int64_t stride, int64_t columns,
                             int64_t first, double scale);

/// Most positions and widest heads of the short attention.
inline constexpr int64_t kShortRows = 16;
inline constexpr int64_t kShortDim = 128;

/// Causal attention of `rows` independent short sequences: q, out [rows, positions, heads, dim],
/// k, v [rows, positions, kv_heads, dim]; softmax(scale·q·kᵀ)·v, head h reads KV head
/// h·kv_heads/heads. positions ≤ kShortRows, dim ≤ kShortDim.
template <typename T>
void short_attention(const T* q, const T* k, const T* v, T* out, int64_t rows, int64_t positions,
                     int64_t heads, int64_t kv_heads, int64_t dim, double scale);
template <typename T>
void short_attention_backward(const T* q, const T* k, const T* v, const T* dout, T* dq, T* dk,
                              T* dv, int64_t rows, int64_t positions, int64_t heads,
                              int64_t kv_heads, int64_t dim, double scale);

}  // namespace ashlar::rows
