#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/base/dtype.h"

namespace ashlar {

/// Elements as they are, row-major. `dtype` is F32, F16 or BF16.
struct DenseTensor {
  DType dtype = DType::kF32;
  std::span<const std::byte> data;
};

/// In which order codes lie in a row. One form so far; GGUF's split nibbles are re-ordered on
/// import.
enum class CodeOrder : uint8_t { kSequential };

/// A matrix [out, in] of codes: value(n, k) = scale(n, k/group)·code(n, k) + min(n, k/group).
/// Without `min` codes are signed (two's complement, −2^(b−1)…2^(b−1)−1), with it unsigned.
/// 8 bits: one byte per code. 4 bits: rows of ceil(in/2) bytes, low nibble = even k.
struct QuantTensor {
  int bits = 8;
  std::span<const std::byte> codes;
  std::span<const std::byte> scale;  ///< fp16 [out, ceil(in/group)]
  std::span<const std::byte> min;    ///< fp16 likewise, or empty
  int64_t group = 0;
  CodeOrder order = CodeOrder::kSequential;
};

/// One named weight and whoever keeps its bytes alive.
struct WeightTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::variant<DenseTensor, QuantTensor> value;
  std::shared_ptr<const void> owner;

  bool quantized() const { return std::holds_alternative<QuantTensor>(value); }
  /// Bytes it takes on disk, parameters included.
  int64_t stored_bytes() const;
};

/// Bytes of one row of codes.
int64_t quant_row_bytes(int bits, int64_t in);

/// The values as floats, `out` of numel elements.
void dequantize(const WeightTensor& tensor, std::span<float> out);
std::vector<float> to_floats(const WeightTensor& tensor);

/// A dense tensor that owns a copy of `values`, stored as `dtype` (F32, F16 or BF16).
WeightTensor make_dense(std::string name, std::vector<int64_t> shape, std::span<const float> values,
                        DType dtype = DType::kF32);

}  // namespace ashlar
