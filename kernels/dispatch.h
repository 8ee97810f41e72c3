#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/cpu.h"
#include "kernels/attention.h"
#include "kernels/hadamard.h"
#include "kernels/kv_features.h"
#include "kernels/kv_page.h"
#include "kernels/kv_side.h"
#include "kernels/linear.h"
#include "kernels/linear_job.h"

namespace ashlar {

/// The kernels of one ISA. Meanings and contracts are those of the public functions of the same
/// name; each table is filled by one source compiled with its own flags (kernels/isa/).
struct KernelTable {
  Isa isa;

  void (*rms_norm)(const float* x, const float* gain, double eps, int64_t n, float* y);
  void (*layer_norm)(const float* x, const float* gain, const float* bias, double eps, int64_t n,
                     float* y);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* y);
  void (*gelu)(const float* x, int64_t n, float* y);
  void (*relu2)(const float* x, int64_t n, float* y);
  void (*add_inplace)(float* y, const float* x, int64_t n);
  void (*rope_apply)(float* x, int64_t heads, int64_t stride, int64_t dim, const float* cos_in,
                     const float* sin_in);
  int64_t (*argmax)(const float* x, int64_t n);
  /// y[i] = e^x[i] as softmax and SwiGLU compute it; for tests.
  void (*exp)(const float* x, int64_t n, float* y);
  /// y[i] = erf(x[i]) as GELU computes it; for tests.
  void (*erf)(const float* x, int64_t n, float* y);

  /// Rows [first, first + rows) of one head's keys or values; x rows `stride` floats apart.
  void (*kv_encode)(const KvSide& side, std::byte* base, int64_t first, int64_t rows,
                    const float* x, int64_t stride);
  void (*kv_decode)(const KvSide& side, const std::byte* base, int64_t first, int64_t rows,
                    float* x, int64_t stride);

  void (*hadamard_f32)(const HadamardPlan& plan, const int8_t* signs, float* x, int64_t inner,
                       float* scratch, bool transpose);
  void (*hadamard_f64)(const HadamardPlan& plan, const int8_t* signs, double* x, int64_t inner,
                       double* scratch, bool transpose);

  void (*attention)(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch);
  void (*attention_split)(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                          std::byte* partial, std::byte* scratch);
  void (*attention_merge)(const KvHeadView& kv, const AttentionTask& task, std::byte* partials,
                          int64_t partial_bytes);
  void (*attention_collect)(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                            std::byte* partials, int64_t partial_bytes);

  void (*digest_dots)(bool half, int64_t numbers, const std::byte* rows, int64_t stride,
                      int64_t count, const float* weights, int64_t queries, float* scores);
  void (*coded_dots)(const CodedDigests& shape, const std::byte* blocks, int64_t stride,
                     int64_t count, const float* weights, float* dots, std::byte* scratch);

  LinearKernels linear;
};

/// The table of `isa`; the processor must support it (Error(kInternal) otherwise).
const KernelTable& kernels_for(Isa isa);
/// The table of active_isa().
const KernelTable& active_kernels();

// The public functions on an explicit table, so that one process can test every ISA.
int64_t linear_scratch_bytes(const KernelTable& kernels, const LinearShape& shape, int64_t tokens);
void linear_run(const KernelTable& kernels, const LinearShape& shape, const std::byte* packed,
                const float* bias, const float* x, int64_t x_stride, int64_t tokens, float* y,
                int64_t y_stride, std::byte* scratch, ThreadPool& pool);
void attention_run(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                   std::byte* scratch);
void attention_run_split(const KernelTable& kernels, const KvHeadView& kv,
                         const AttentionTask& task, int64_t split, std::byte* partial,
                         std::byte* scratch);
void attention_merge(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                     std::byte* partials);
void attention_collect(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                       int64_t split, std::byte* partials);
void kv_page_encode(const KernelTable& kernels, const KvPageShape& shape, std::byte* page,
                    int64_t first, int64_t rows, const float* keys, int64_t key_stride,
                    const float* values, int64_t value_stride);
void kv_page_decode(const KernelTable& kernels, const KvPageShape& shape, const std::byte* page,
                    int64_t first, int64_t rows, float* keys, int64_t key_stride, float* values,
                    int64_t value_stride);
void coded_dots(const KernelTable& kernels, const CodedDigests& shape, const std::byte* blocks,
                int64_t stride, int64_t count, const float* weights, float* dots,
                std::byte* scratch);
void digest_dots(const KernelTable& kernels, bool half, int64_t numbers, const std::byte* rows,
                 int64_t stride, int64_t count, const float* weights, int64_t queries,
                 float* scores);

}  // namespace ashlar
