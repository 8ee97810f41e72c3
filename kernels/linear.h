#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/threads.h"

namespace ashlar {

/// How the weights of a linear map are stored when packed for this machine.
enum class WeightKind : uint8_t { kF32, kF16, kBF16, kQ8, kQ4 };

/// How activations enter the product. kInt8 rounds each group of each token symmetrically to 8 bits
/// (scale = max|x|/127) and multiplies in integers (VNNI where there is one); weights must be
/// kQ8/kQ4.
enum class ActivationKind : uint8_t { kF32, kInt8 };

/// y[m, n] = Σ_k x[m, k] · W[n, k] (+ bias[n]).
///
/// Arithmetic contract: an output element is reduced over k in an order that depends on (rows_k,
/// group, kinds) only, never on m, the number of tokens, the number of threads or the tile it fell
/// into: segments of at most 256 k (4096 with kInt8), cut at group borders, are summed from zero
/// and added in ascending order; bias comes last. AVX2 and AVX-512 give the same bits; generic has
/// no FMA and differs by rounding. Quantized weights: W[n, k] = scale[n, g]·code[n, k] + min[n, g],
/// g = k / group.
struct LinearShape {
  int64_t out = 0;    ///< n
  int64_t in = 0;     ///< k
  int64_t group = 0;  ///< group size along k for kQ8/kQ4 (the last group may be shorter); else 0
  WeightKind weight = WeightKind::kF32;
  bool has_min = false;
  ActivationKind activation = ActivationKind::kF32;
  bool wide_parameters = false;  ///< scales and minima are fp32 instead of fp16 (K-quants)
};

/// Weights as they lie in a file, ISA-neutral, row-major (out, in), at any alignment.
struct LinearSource {
  /// kF32/kF16/kBF16: out·in elements. kQ8: one int8 per code (uint8 when has_min). kQ4: rows of
  /// ceil(in/2) bytes, low nibble = even k; two's complement −8…7, or 0…15 when has_min.
  const std::byte* data = nullptr;
  const std::byte* scale = nullptr;  ///< [out, ceil(in/group)] fp16, or fp32 if wide_parameters
  const std::byte* min = nullptr;    ///< likewise, or null
};

/// Bytes of the packed form, which is the same for every ISA; 64-byte aligned storage is required.
/// Throws Error(kInternal) for a shape no caller may build, Error(kData) when the size overflows.
int64_t linear_packed_bytes(const LinearShape& shape);
/// Packs `source` into `packed` (linear_packed_bytes(shape) bytes, 64-byte aligned).
void linear_pack(const LinearShape& shape, const LinearSource& source, std::byte* packed);
/// Bytes of scratch `linear_run` needs for up to `tokens` rows of x on the active ISA; may be 0.
int64_t linear_scratch_bytes(const LinearShape& shape, int64_t tokens);

/// Computes `tokens` rows. x: [tokens, in] with row stride x_stride; y: [tokens, out] with row
/// stride y_stride; bias: [out] or null; scratch: linear_scratch_bytes, 64-byte aligned. Allocates
/// nothing.
void linear_run(const LinearShape& shape, const std::byte* packed, const float* bias,
                const float* x, int64_t x_stride, int64_t tokens, float* y, int64_t y_stride,
                std::byte* scratch, ThreadPool& pool);

}  // namespace ashlar
