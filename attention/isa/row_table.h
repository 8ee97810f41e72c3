#pragma once

#include <cstdint>

#include "attention/row_kernels.h"

namespace ashlar::rows {

/// The kernels of one element type, compiled for one ISA. Signatures are those of row_kernels.h.
template <typename T>
struct RowTable {
  decltype(&rms_norm<T>) rms_norm;
  decltype(&rms_norm_backward<T>) rms_norm_backward;
  decltype(&rotate<T>) rotate;
  decltype(&swiglu<T>) swiglu;
  decltype(&swiglu_backward<T>) swiglu_backward;
  decltype(&cross_entropy<T>) cross_entropy;
  decltype(&causal_softmax<T>) causal_softmax;
  decltype(&causal_softmax_backward<T>) causal_softmax_backward;
  decltype(&short_attention<T>) short_attention;
  decltype(&short_attention_backward<T>) short_attention_backward;
};

struct RowTables {
  RowTable<float> f32;
  RowTable<double> f64;
  RowTable<Bf16> bf16;
};

RowTables generic_tables();
RowTables avx2_tables();
RowTables avx512_tables();

}  // namespace ashlar::rows
