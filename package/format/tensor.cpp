#include "package/format/tensor.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "package/format/k_quants.h"

namespace ashlar {
namespace {

float load_parameter(std::span<const std::byte> bytes, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, bytes.data() + 4 * index, 4);
    return value;
  }
  uint16_t h = 0;
  std::memcpy(&h, bytes.data() + 2 * index, 2);
  return half_to_float(h);
}

void read_dense(const DenseTensor& dense, int64_t first, std::span<float> out) {
  const std::byte* data = dense.data.data() + first * dtype_bytes(dense.dtype);
  if (dense.dtype == DType::kF32) {
    std::memcpy(out.data(), data, 4 * out.size());
    return;
  }
  ASHLAR_CHECK(dense.dtype == DType::kF16 || dense.dtype == DType::kBF16);
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t word = 0;
    std::memcpy(&word, data + 2 * i, 2);
    out[i] = dense.dtype == DType::kF16 ? half_to_float(word) : bfloat_to_float(word);
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

void read_codes(const QuantTensor& q, int64_t in, int64_t first, std::span<float> out) {
  const int64_t groups = ceil_div(in, q.group), row_bytes = quant_row_bytes(q.bits, in);
  const int64_t rows = static_cast<int64_t>(out.size()) / in;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t n = first + r;
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = load_parameter(q.scale, q.parameters, n * groups + g);
      const bool has_min = !q.min.empty();
      const float min = has_min ? load_parameter(q.min, q.parameters, n * groups + g) : 0.0f;
      for (int64_t k = g * q.group; k < std::min(in, (g + 1) * q.group); ++k) {
        const float value = scale * code_at(q, n, row_bytes, k);
        out[static_cast<size_t>(r * in + k)] = has_min ? value + min : value;
      }
    }
  }
}

void read_blocks(const BlockTensor& blocks, int64_t in, int64_t first, std::span<float> out) {
  const UnpackedBlocks form = unpacked_form(blocks.kind);
  const int64_t bytes = super_block_bytes(blocks.kind);
  std::array<uint8_t, kSuperBlock> codes{};
  std::array<float, 16> scale{}, min{};
  const std::byte* block = blocks.data.data() + first * (in / kSuperBlock) * bytes;
  for (size_t at = 0; at < out.size(); at += kSuperBlock, block += bytes) {
    unpack_super_block(blocks.kind, block, codes.data(), scale.data(), min.data());
    for (size_t k = 0; k < codes.size(); ++k) {
      const auto g = k / static_cast<size_t>(form.group);
      out[at + k] = form.has_min ? scale[g] * static_cast<float>(codes[k]) + min[g]
                                 : scale[g] * static_cast<float>(static_cast<int8_t>(codes[k]));
    }
  }
}

void check_sizes(const WeightTensor& t) {
  const auto expect = [&](const char* part, std::span<const std::byte> bytes, int64_t wanted) {
    require(static_cast<int64_t>(bytes.size()) == wanted, ErrorCode::kData,
            "tensor '{}': {} has {} bytes, expected {}", t.name, part, bytes.size(), wanted);
  };
  const TensorEncoding encoding = t.encoding();
  const int64_t bytes = encoding.bytes(t.shape);
  if (const auto* q = std::get_if<QuantTensor>(&t.value)) {
    const int64_t parameters = checked_mul(
        dtype_bytes(q->parameters),
        checked_mul(t.shape[0], ceil_div(t.shape[1], q->group), t.name.c_str()), t.name.c_str());
    expect("codes", q->codes, t.shape[0] * quant_row_bytes(q->bits, t.shape[1]));
    expect("scale", q->scale, parameters);
    if (!q->min.empty()) expect("min", q->min, parameters);
  } else if (const auto* blocks = std::get_if<BlockTensor>(&t.value)) {
    expect("data", blocks->data, bytes);
  } else {
    expect("data", std::get<DenseTensor>(t.value).data, bytes);
  }
}

}  // namespace

TensorEncoding TensorEncoding::dense(DType dtype) {
  TensorEncoding e;
  e.dtype = dtype;
  return e;
}

TensorEncoding TensorEncoding::quantized(int bits, int64_t group, bool has_min, DType parameters) {
  return {Kind::kQuantized, parameters, bits, group, has_min, BlockKind::kQ4K};
}

TensorEncoding TensorEncoding::blocks(BlockKind kind) {
  TensorEncoding e;
  e.kind = Kind::kBlocks;
  e.block = kind;
  return e;
}

int64_t TensorEncoding::bytes(const std::vector<int64_t>& shape) const {
  const int64_t numel = checked_numel(shape, "tensor");
  if (kind == Kind::kDense) {
    require(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16, ErrorCode::kData,
            "element type {} is no weight type", dtype_name(dtype));
    return checked_mul(numel, dtype_bytes(dtype), "tensor");
  }
  require(shape.size() == 2, ErrorCode::kData, "a quantized tensor is a matrix");
  if (kind == Kind::kBlocks) {
    require(shape[1] % kSuperBlock == 0, ErrorCode::kData,
            "rows of {} weights are not whole {} super-blocks of {}", shape[1], block_name(block),
            kSuperBlock);
    return checked_mul(numel / kSuperBlock, super_block_bytes(block), "tensor");
  }
  require((bits == 8 || bits == 4) && group >= 1, ErrorCode::kData,
          "{} bits in groups of {} is no known encoding", bits, group);
  const int64_t parameters = checked_mul(shape[0], ceil_div(shape[1], group), "tensor");
  const int64_t each = dtype_bytes(dtype) * (has_min ? 2 : 1);
  return checked_add(checked_mul(shape[0], quant_row_bytes(bits, shape[1]), "tensor"),
                     checked_mul(parameters, each, "tensor"), "tensor");
}

std::string TensorEncoding::description() const {
  switch (kind) {
    case Kind::kDense:
      return std::string(dtype_name(dtype));
    case Kind::kBlocks:
      return block_name(block);
    case Kind::kQuantized:
      break;
  }
  return fmt::format("{} bits in groups of {}{}", bits, group, has_min ? " with minima" : "");
}

TensorEncoding WeightTensor::encoding() const {
  if (const auto* dense = std::get_if<DenseTensor>(&value)) {
    return TensorEncoding::dense(dense->dtype);
  }
  if (const auto* blocks = std::get_if<BlockTensor>(&value)) {
    return TensorEncoding::blocks(blocks->kind);
  }
  const auto& q = std::get<QuantTensor>(value);
  return TensorEncoding::quantized(q.bits, q.group, !q.min.empty(), q.parameters);
}

TensorSource::TensorSource(WeightTensor tensor)
    : name_(tensor.name), shape_(tensor.shape), encoding_(tensor.encoding()), held_(tensor) {}

TensorSource::TensorSource(std::string name, std::vector<int64_t> shape, TensorEncoding encoding,
                           std::function<WeightTensor()> make)
    : name_(std::move(name)),
      shape_(std::move(shape)),
      encoding_(encoding),
      make_(std::move(make)) {}

WeightTensor TensorSource::load() const {
  WeightTensor tensor = held_ ? *held_ : make_();
  ASHLAR_CHECK(tensor.shape == shape_ && tensor.encoding() == encoding_);
  check_sizes(tensor);
  return tensor;
}

void TensorSource::check() const {
  try {
    encoding_.bytes(shape_);
  } catch (const Error& e) {
    fail(e.code(), "tensor '{}': {}", name_, e.what());
  }
  if (held_) check_sizes(*held_);
}

int64_t quant_row_bytes(int bits, int64_t in) { return bits == 8 ? in : ceil_div(in, 2); }

void dequantize(const WeightTensor& tensor, std::span<float> out) {
  ASHLAR_CHECK_EQ(static_cast<int64_t>(out.size()), checked_numel(tensor.shape, "tensor"));
  if (const auto* dense = std::get_if<DenseTensor>(&tensor.value)) {
    read_dense(*dense, 0, out);
  } else {
    dequantize_rows(tensor, 0, out);
  }
}

void dequantize_rows(const WeightTensor& tensor, int64_t first, std::span<float> out) {
  const int64_t in = tensor.shape[1], count = static_cast<int64_t>(out.size()) / in;
  ASHLAR_CHECK(tensor.shape.size() == 2 && count * in == static_cast<int64_t>(out.size()) &&
               first >= 0 && first + count <= tensor.shape[0]);
  if (const auto* dense = std::get_if<DenseTensor>(&tensor.value)) {
    read_dense(*dense, first * in, out);
  } else if (const auto* blocks = std::get_if<BlockTensor>(&tensor.value)) {
    read_blocks(*blocks, in, first, out);
  } else {
    read_codes(std::get<QuantTensor>(tensor.value), in, first, out);
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
