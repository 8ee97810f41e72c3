#include "package/format/tensor.h"

#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

float load_half(std::span<const std::byte> bytes, int64_t index) {
  uint16_t h = 0;
  std::memcpy(&h, bytes.data() + 2 * index, 2);
  return half_to_float(h);
}

void read_dense(const DenseTensor& dense, std::span<float> out) {
  const std::byte* data = dense.data.data();
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t word = 0;
    switch (dense.dtype) {
      case DType::kF32:
        std::memcpy(&out[i], data + 4 * i, 4);
        break;
      case DType::kF16:
        std::memcpy(&word, data + 2 * i, 2);
        out[i] = half_to_float(word);
        break;
      case DType::kBF16:
        std::memcpy(&word, data + 2 * i, 2);
        out[i] = bfloat_to_float(word);
        break;
      default:
        fail(ErrorCode::kInternal, "element type {} is no weight type", dtype_name(dense.dtype));
    }
  }
}

float code_at(const QuantTensor& q, int64_t row, int64_t row_bytes, int64_t k) {
  const bool is_unsigned = !q.min.empty();
  if (q.bits == 8) {
    const auto byte = static_cast<uint8_t>(q.codes[static_cast<size_t>(row * row_bytes + k)]);
    return is_unsigned ? static_cast<float>(byte) : static_cast<float>(static_cast<int8_t>(byte));
  }
  const auto byte = static_cast<uint8_t>(q.codes[static_cast<size_t>(row * row_bytes + k / 2)]);
  const int nibble = k % 2 == 0 ? byte & 15 : byte >> 4;
  return static_cast<float>(is_unsigned || nibble < 8 ? nibble : nibble - 16);
}

}  // namespace

int64_t WeightTensor::stored_bytes() const {
  if (const auto* dense = std::get_if<DenseTensor>(&value)) {
    return static_cast<int64_t>(dense->data.size());
  }
  const auto& q = std::get<QuantTensor>(value);
  return static_cast<int64_t>(q.codes.size() + q.scale.size() + q.min.size());
}

int64_t quant_row_bytes(int bits, int64_t in) { return bits == 8 ? in : ceil_div(in, 2); }

void dequantize(const WeightTensor& tensor, std::span<float> out) {
  ASHLAR_CHECK_EQ(static_cast<int64_t>(out.size()), checked_numel(tensor.shape, "tensor"));
  if (const auto* dense = std::get_if<DenseTensor>(&tensor.value)) {
    read_dense(*dense, out);
    return;
  }
  const auto& q = std::get<QuantTensor>(tensor.value);
  const int64_t rows = tensor.shape[0], in = tensor.shape[1];
  const int64_t groups = ceil_div(in, q.group), row_bytes = quant_row_bytes(q.bits, in);
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < in; ++k) {
      const int64_t g = n * groups + k / q.group;
      float value = load_half(q.scale, g) * code_at(q, n, row_bytes, k);
      if (!q.min.empty()) value += load_half(q.min, g);
      out[static_cast<size_t>(n * in + k)] = value;
    }
  }
}

std::vector<float> to_floats(const WeightTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(checked_numel(tensor.shape, tensor.name.c_str())));
  dequantize(tensor, out);
  return out;
}

WeightTensor make_dense(std::string name, std::vector<int64_t> shape, std::span<const float> values,
                        DType dtype) {
  ASHLAR_CHECK_EQ(static_cast<int64_t>(values.size()), checked_numel(shape, "tensor"));
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() *
                                                        static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(bytes->data() + 4 * i, &values[i], 4);
      continue;
    }
    ASHLAR_CHECK(dtype == DType::kF16 || dtype == DType::kBF16);
    const uint16_t word =
        dtype == DType::kF16 ? float_to_half(values[i]) : float_to_bfloat(values[i]);
    std::memcpy(bytes->data() + 2 * i, &word, 2);
  }
  return {std::move(name), std::move(shape), DenseTensor{dtype, *bytes}, bytes};
}

}  // namespace ashlar
