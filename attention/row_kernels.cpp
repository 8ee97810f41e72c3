#include "attention/row_kernels.h"

#include "attention/isa/row_table.h"
#include "core/base/cpu.h"

namespace ashlar::rows {
namespace {

const RowTables& tables() {
  static const RowTables chosen = [] {
    switch (active_isa()) {
      case Isa::kAvx512:
      case Isa::kAvx512Vnni:
        return avx512_tables();
      case Isa::kAvx2:
        return avx2_tables();
      case Isa::kGeneric:
        break;
    }
    return generic_tables();
  }();
  return chosen;
}

template <typename T>
const RowTable<T>& table();
template <>
const RowTable<float>& table<float>() {
  return tables().f32;
}
template <>
const RowTable<double>& table<double>() {
  return tables().f64;
}
template <>
const RowTable<Bf16>& table<Bf16>() {
  return tables().bf16;
}

}  // namespace

template <typename T>
void rms_norm(const T* x, const Accumulate<T>* gain, T* y, Accumulate<T>* inverse_rms, int64_t rows,
              int64_t width, double eps) {
  table<T>().rms_norm(x, gain, y, inverse_rms, rows, width, eps);
}

template <typename T>
void rms_norm_backward(const T* x, const Accumulate<T>* gain, const Accumulate<T>* inverse_rms,
                       const T* dy, const T* residual, T* dx, Accumulate<T>* dgain, int64_t rows,
                       int64_t width) {
  table<T>().rms_norm_backward(x, gain, inverse_rms, dy, residual, dx, dgain, rows, width);
}

template <typename T>
void rotate(const T* x, T* y, const Accumulate<T>* cosine, const Accumulate<T>* sine,
            int64_t first_row, int64_t rows, int64_t positions, int64_t heads, const HeadPart& part,
            int direction) {
  table<T>().rotate(x, y, cosine, sine, first_row, rows, positions, heads, part, direction);
}

template <typename T>
void swiglu(const T* gate, const T* up, T* y, int64_t count) {
  table<T>().swiglu(gate, up, y, count);
}

template <typename T>
void swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, int64_t count) {
  table<T>().swiglu_backward(gate, up, dy, dgate, dup, count);
}

template <typename T>
void cross_entropy(T* logits, const int64_t* targets, const float* weights, double* loss,
                   int64_t rows, int64_t classes, const LossShape& shape, bool gradient) {
  table<T>().cross_entropy(logits, targets, weights, loss, rows, classes, shape, gradient);
}

template <typename T>
void causal_softmax(T* scores, int64_t rows, int64_t stride, int64_t columns, int64_t first,
                    double scale) {
  table<T>().causal_softmax(scores, rows, stride, columns, first, scale);
}

template <typename T>
void causal_softmax_backward(const T* p, T* dp, int64_t rows, int64_t stride, int64_t columns,
                             int64_t first, double scale) {
  table<T>().causal_softmax_backward(p, dp, rows, stride, columns, first, scale);
}

template <typename T>
void short_attention(const T* q, const T* k, const T* v, T* out, int64_t rows, int64_t positions,
                     int64_t heads, int64_t kv_heads, int64_t dim, double scale) {
  table<T>().short_attention(q, k, v, out, rows, positions, heads, kv_heads, dim, scale);
}

template <typename T>
void short_attention_backward(const T* q, const T* k, const T* v, const T* dout, T* dq, T* dk,
                              T* dv, int64_t rows, int64_t positions, int64_t heads,
                              int64_t kv_heads, int64_t dim, double scale) {
  table<T>().short_attention_backward(q, k, v, dout, dq, dk, dv, rows, positions, heads, kv_heads,
                                      dim, scale);
}

#define ASHLAR_ROW_KERNELS(T)                                                                     \
  template void rms_norm<T>(const T*, const Accumulate<T>*, T*, Accumulate<T>*, int64_t, int64_t, \
                            double);                                                              \
  template void rms_norm_backward<T>(const T*, const Accumulate<T>*, const Accumulate<T>*,        \
                                     const T*, const T*, T*, Accumulate<T>*, int64_t, int64_t);   \
  template void rotate<T>(const T*, T*, const Accumulate<T>*, const Accumulate<T>*, int64_t,      \
                          int64_t, int64_t, int64_t, const HeadPart&, int);                       \
  template void swiglu<T>(const T*, const T*, T*, int64_t);                                       \
  template void swiglu_backward<T>(const T*, const T*, const T*, T*, T*, int64_t);                \
  template void cross_entropy<T>(T*, const int64_t*, const float*, double*, int64_t, int64_t,     \
                                 const LossShape&, bool);                                         \
  template void causal_softmax<T>(T*, int64_t, int64_t, int64_t, int64_t, double);                \
  template void causal_softmax_backward<T>(const T*, T*, int64_t, int64_t, int64_t, int64_t,      \
                                           double);                                               \
  template void short_attention<T>(const T*, const T*, const T*, T*, int64_t, int64_t, int64_t,   \
                                   int64_t, int64_t, double);                                     \
  template void short_attention_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*,   \
                                            int64_t, int64_t, int64_t, int64_t, int64_t, double);

ASHLAR_ROW_KERNELS(float)
ASHLAR_ROW_KERNELS(double)
ASHLAR_ROW_KERNELS(Bf16)

#undef ASHLAR_ROW_KERNELS

}  // namespace ashlar::rows
