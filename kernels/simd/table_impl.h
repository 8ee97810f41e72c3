#pragma once

// Included after one ISA header: every kernel, and the table of this translation unit.

#include "kernels/dispatch.h"
#include "kernels/simd/attention_impl.h"
#include "kernels/simd/elementwise_impl.h"
#include "kernels/simd/features_impl.h"
#include "kernels/simd/hadamard_impl.h"
#include "kernels/simd/kv_page_impl.h"
#include "kernels/simd/linear_f32_impl.h"
#include "kernels/simd/linear_int8_impl.h"

namespace ashlar {
namespace {

constexpr KernelTable make_table(Isa isa) {
  return {
      isa,
      rms_norm_kernel,
      layer_norm_kernel,
      swiglu_kernel,
      gelu_kernel,
      relu2_kernel,
      add_inplace_kernel,
      rope_apply_kernel,
      argmax_kernel,
      exp_kernel,
      erf_kernel,
      kv_encode_kernel,
      kv_decode_kernel,
      hadamard_f32_kernel,
      hadamard_f64_kernel,
      attention_kernel,
      attention_split_kernel,
      attention_merge_kernel,
      attention_collect_kernel,
      digest_dots_kernel,
      coded_dots_kernel,
      {linear_scratch_kernel, linear_tiles_kernel, linear_prepare_kernel, linear_run_kernel},
  };
}

}  // namespace
}  // namespace ashlar
