#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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
/// 8 bits: one byte per code. 4 bits: rows of ceil(in/2) bytes, low nibble = even k. The legacy
/// types of GGUF are this without loss; those of 5 bits take 8 here.
struct QuantTensor {
  int bits = 8;
  std::span<const std::byte> codes;
  std::span<const std::byte> scale;  ///< [out, ceil(in/group)]
  std::span<const std::byte> min;    ///< likewise, or empty
  int64_t group = 0;
  CodeOrder order = CodeOrder::kSequential;
  DType parameters = DType::kF16;  ///< of scale and min: F16, or F32 in memory only
};

/// K-quants of GGUF (package/format/k_quants.h).
enum class BlockKind : uint8_t { kQ4K, kQ5K, kQ6K };

/// A matrix of K-quants as GGUF stores them: rows of in/256 super-blocks.
struct BlockTensor {
  BlockKind kind = BlockKind::kQ4K;
  std::span<const std::byte> data;
};

/// What a weight is, without its bytes.
struct TensorEncoding {
  enum class Kind : uint8_t { kDense, kQuantized, kBlocks };
  Kind kind = Kind::kDense;
  DType dtype = DType::kF32;  ///< of dense elements, or of a quantized tensor's parameters
  int bits = 0;
  int64_t group = 0;
  bool has_min = false;
  BlockKind block = BlockKind::kQ4K;
  bool operator==(const TensorEncoding&) const = default;

  static TensorEncoding dense(DType dtype);
  static TensorEncoding quantized(int bits, int64_t group, bool has_min,
                                  DType parameters = DType::kF16);
  static TensorEncoding blocks(BlockKind kind);
  /// Bytes of a tensor of this shape, parameters included; overflow-checked. A kind of blocks needs
  /// rows of whole super-blocks: throws Error(kData).
  int64_t bytes(const std::vector<int64_t>& shape) const;
  /// For people: "F16", "4 bits in groups of 32 with minima", "Q6_K".
  std::string description() const;
};

/// One named weight and whoever keeps its bytes alive.
struct WeightTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::variant<DenseTensor, QuantTensor, BlockTensor> value;
  std::shared_ptr<const void> owner;

  bool quantized() const { return !std::holds_alternative<DenseTensor>(value); }
  TensorEncoding encoding() const;
};

/// A weight that is there, or that is made when it is asked for, so that a model larger than memory
/// can be walked through tensor by tensor.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(WeightTensor tensor);  // NOLINT(google-explicit-constructor): a source of itself
  /// `make` returns a tensor of this name, shape and encoding; it may be called any number of times
  /// from one thread at a time and throws Error when the bytes are not what they claim.
  TensorSource(std::string name, std::vector<int64_t> shape, TensorEncoding encoding,
               std::function<WeightTensor()> make);

  const std::string& name() const { return name_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  const TensorEncoding& encoding() const { return encoding_; }
  bool quantized() const { return encoding_.kind != TensorEncoding::Kind::kDense; }
  int64_t stored_bytes() const { return encoding_.bytes(shape_); }
  /// The tensor; drop it when done. Throws Error(kData) if its sizes are not those of its encoding.
  WeightTensor load() const;
  /// Throws Error(kData) for an impossible encoding or, where the bytes are there, wrong sizes.
  void check() const;

 private:
  std::string name_;
  std::vector<int64_t> shape_;
  TensorEncoding encoding_;
  std::optional<WeightTensor> held_;
  std::function<WeightTensor()> make_;
};

/// Bytes of one row of codes.
int64_t quant_row_bytes(int bits, int64_t in);

/// The values as floats, `out` of numel elements.
void dequantize(const WeightTensor& tensor, std::span<float> out);
/// Rows [first, first + out.size() / in) of a matrix.
void dequantize_rows(const WeightTensor& tensor, int64_t first, std::span<float> out);
std::vector<float> to_floats(const WeightTensor& tensor);

/// A dense tensor that owns a copy of `values`, stored as `dtype` (F32, F16 or BF16).
WeightTensor make_dense(std::string name, std::vector<int64_t> shape, std::span<const float> values,
                        DType dtype = DType::kF32);

}  // namespace ashlar
