#include "package/import/gguf_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kBlock = 32;

// Where the parts of a legacy block lie, in bytes, and how its codes become ours.
struct LegacyType {
  GgufType type;
  int stored_bits;  // of a code in the block
  bool has_min;
  int64_t high_bits;  // offset of the word of fifth bits, or 0
  int64_t codes;      // offset of the codes
  int offset;         // subtracted from a stored code

  int bits() const { return stored_bits == 4 ? 4 : 8; }
};

constexpr LegacyType kLegacy[] = {
    {GgufType::kQ4_0, 4, false, 0, 2, 8},  {GgufType::kQ4_1, 4, true, 0, 4, 0},
    {GgufType::kQ5_0, 5, false, 2, 6, 16}, {GgufType::kQ5_1, 5, true, 4, 8, 0},
    {GgufType::kQ8_0, 8, false, 0, 2, 0},
};

const LegacyType* legacy(GgufType type) {
  for (const LegacyType& entry : kLegacy) {
    if (entry.type == type) return &entry;
  }
  return nullptr;
}

struct KType {
  GgufType type;
  BlockKind kind;
};
constexpr KType kKTypes[] = {{GgufType::kQ4_K, BlockKind::kQ4K},
                             {GgufType::kQ5_K, BlockKind::kQ5K},
                             {GgufType::kQ6_K, BlockKind::kQ6K}};

const KType* k_type(GgufType type) {
  for (const KType& entry : kKTypes) {
    if (entry.type == type) return &entry;
  }
  return nullptr;
}

bool is_dense(GgufType type) {
  return type == GgufType::kF32 || type == GgufType::kF16 || type == GgufType::kBF16;
}

DType dense_type(GgufType type) {
  return type == GgufType::kF32 ? DType::kF32 : type == GgufType::kF16 ? DType::kF16 : DType::kBF16;
}

// The codes of one block as bytes: two's complement without a minimum, else unsigned.
void read_codes(const LegacyType& t, const std::byte* block, uint8_t* out) {
  const auto* stored = reinterpret_cast<const uint8_t*>(block + t.codes);
  if (t.stored_bits == 8) {
    std::memcpy(out, stored, kBlock);
    return;
  }
  uint32_t high = 0;
  if (t.high_bits > 0) std::memcpy(&high, block + t.high_bits, 4);
  for (int e = 0; e < kBlock; ++e) {
    const int low = e < 16 ? stored[e] & 15 : stored[e - 16] >> 4;
    const int fifth = static_cast<int>((high >> e) & 1u) << 4;
    out[e] = static_cast<uint8_t>((low | fifth) - t.offset);
  }
}

struct Codes {
  std::vector<std::byte> codes, scale, min;
};

WeightTensor from_legacy(WeightTensor weight, const LegacyType& t,
                         std::span<const std::byte> data) {
  const int64_t block_bytes = gguf_type_info(t.type).bytes;
  const int64_t blocks = static_cast<int64_t>(data.size()) / block_bytes;
  auto parts = std::make_shared<Codes>();
  parts->codes.resize(static_cast<size_t>(blocks * quant_row_bytes(t.bits(), kBlock)));
  parts->scale.resize(static_cast<size_t>(2 * blocks));
  if (t.has_min) parts->min.resize(static_cast<size_t>(2 * blocks));
  auto* codes = reinterpret_cast<uint8_t*>(parts->codes.data());
  for (int64_t b = 0; b < blocks; ++b) {
    const std::byte* block = data.data() + b * block_bytes;
    std::memcpy(parts->scale.data() + 2 * b, block, 2);
    if (t.has_min) std::memcpy(parts->min.data() + 2 * b, block + 2, 2);
    uint8_t unpacked[kBlock];
    read_codes(t, block, unpacked);
    if (t.bits() == 8) {
      std::memcpy(codes + b * kBlock, unpacked, kBlock);
      continue;
    }
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      codes[b * kBlock / 2 + i] =
          static_cast<uint8_t>((unpacked[2 * i] & 15) | (unpacked[2 * i + 1] & 15) << 4);
    }
  }
  QuantTensor q;
  q.bits = t.bits();
  q.codes = parts->codes;
  q.scale = parts->scale;
  q.min = parts->min;
  q.group = kBlock;
  q.parameters = DType::kF16;
  weight.value = q;
  weight.owner = std::move(parts);
  return weight;
}

}  // namespace

bool is_weight_type(GgufType type) {
  return is_dense(type) || legacy(type) != nullptr || k_type(type) != nullptr;
}

TensorEncoding gguf_encoding(GgufType type) {
  if (is_dense(type)) return TensorEncoding::dense(dense_type(type));
  if (const LegacyType* t = legacy(type)) {
    return TensorEncoding::quantized(t->bits(), kBlock, t->has_min, DType::kF16);
  }
  const KType* k = k_type(type);
  ASHLAR_CHECK(k != nullptr);
  return TensorEncoding::blocks(k->kind);
}

WeightTensor weight_from_gguf(std::string name, std::vector<int64_t> shape, GgufType type,
                              std::span<const std::byte> data, std::shared_ptr<const void> owner) {
  const GgufTypeInfo& info = gguf_type_info(type);
  ASHLAR_CHECK_EQ(shape.back() % info.block, 0);
  ASHLAR_CHECK_EQ(static_cast<int64_t>(data.size()),
                  checked_numel(shape, name.c_str()) / info.block * info.bytes);
  WeightTensor weight;
  weight.name = std::move(name);
  weight.shape = std::move(shape);
  if (const LegacyType* t = legacy(type)) return from_legacy(std::move(weight), *t, data);
  if (const KType* k = k_type(type)) {
    weight.value = BlockTensor{k->kind, data};
  } else {
    ASHLAR_CHECK(is_dense(type));
    weight.value = DenseTensor{dense_type(type), data};
  }
  weight.owner = std::move(owner);
  return weight;
}

namespace {

uint16_t checked_half(float value, const std::string& what) {
  const uint16_t half = float_to_half(value);
  require((half & 0x7fffu) < 0x7c00u, ErrorCode::kData, "{}: {} is beyond what 16 bits hold", what,
          value);
  return half;
}

// d = max|x|/127, codes round half away from zero.
void encode_q8_0(const float* x, std::byte* out, const std::string& what) {
  float top = 0;
  for (int64_t i = 0; i < kBlock; ++i) top = std::max(top, std::abs(x[i]));
  const float d = top / 127.0f, inverse = d == 0 ? 0.0f : 1.0f / d;
  const uint16_t scale = checked_half(d, what);
  std::memcpy(out, &scale, 2);
  for (int64_t i = 0; i < kBlock; ++i) {
    out[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(x[i] * inverse)));
  }
}

// d = x*/−8 where x* has the largest magnitude (the first of equals); codes trunc(x/d + 8.5) ≤ 15.
void encode_q4_0(const float* x, std::byte* out, const std::string& what) {
  float top = x[0];
  for (int64_t i = 1; i < kBlock; ++i) {
    if (std::abs(x[i]) > std::abs(top)) top = x[i];
  }
  const float d = top / -8.0f, inverse = d == 0 ? 0.0f : 1.0f / d;
  const uint16_t scale = checked_half(d, what);
  std::memcpy(out, &scale, 2);
  const auto code = [&](int64_t i) {
    return std::min(static_cast<int>(x[i] * inverse + 8.5f), 15);
  };
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    out[2 + i] = static_cast<std::byte>(code(i) | code(i + kBlock / 2) << 4);
  }
}

}  // namespace

std::vector<std::byte> encode_gguf(GgufType type, std::span<const float> values,
                                   const std::string& what) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const size_t blocks = values.size() / static_cast<size_t>(info.block);
  ASHLAR_CHECK_EQ(values.size() % static_cast<size_t>(info.block), size_t{0});
  for (float v : values) {
    require(std::isfinite(v), ErrorCode::kData, "{}: a value is {}", what, v);
  }
  std::vector<std::byte> out(blocks * static_cast<size_t>(info.bytes));
  for (size_t b = 0; b < blocks; ++b) {
    const float* x = values.data() + b * static_cast<size_t>(info.block);
    std::byte* block = out.data() + b * static_cast<size_t>(info.bytes);
    switch (type) {
      case GgufType::kF32:
        std::memcpy(block, x, 4);
        break;
      case GgufType::kF16: {
        const uint16_t half = checked_half(*x, what);
        std::memcpy(block, &half, 2);
        break;
      }
      case GgufType::kQ8_0:
        encode_q8_0(x, block, what);
        break;
      case GgufType::kQ4_0:
        encode_q4_0(x, block, what);
        break;
      default:
        fail(ErrorCode::kInternal, "{} is not written", info.name);
    }
  }
  return out;
}

bool fits_gguf_blocks(const TensorEncoding& encoding, int64_t in, GgufType type) {
  const bool whole = encoding.group % kBlock == 0 || encoding.group >= in;
  return encoding.kind == TensorEncoding::Kind::kQuantized && !encoding.has_min &&
         encoding.dtype == DType::kF16 && in % kBlock == 0 && whole &&
         (type == GgufType::kQ8_0 || (type == GgufType::kQ4_0 && encoding.bits == 4));
}

std::vector<std::byte> blocks_from_codes(const WeightTensor& tensor, GgufType type) {
  const int64_t rows = tensor.shape[0], in = tensor.shape[1];
  ASHLAR_CHECK(fits_gguf_blocks(tensor.encoding(), in, type));
  const auto& q = std::get<QuantTensor>(tensor.value);
  const int64_t row_bytes = quant_row_bytes(q.bits, in), groups = ceil_div(in, q.group);
  const int64_t block_bytes = gguf_type_info(type).bytes;
  const auto* stored = reinterpret_cast<const uint8_t*>(q.codes.data());
  const auto code = [&](int64_t n, int64_t k) {
    if (q.bits == 8) return static_cast<int>(static_cast<int8_t>(stored[n * row_bytes + k]));
    const int nibble = stored[n * row_bytes + k / 2] >> (k % 2 * 4) & 15;
    return nibble < 8 ? nibble : nibble - 16;
  };
  std::vector<std::byte> out(static_cast<size_t>(rows * in / kBlock * block_bytes));
  std::byte* block = out.data();
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t k = 0; k < in; k += kBlock, block += block_bytes) {
      std::memcpy(block, q.scale.data() + 2 * (n * groups + k / q.group), 2);
      for (int64_t i = 0; i < (type == GgufType::kQ8_0 ? kBlock : kBlock / 2); ++i) {
        const int low = code(n, k + i);
        block[2 + i] = static_cast<std::byte>(
            type == GgufType::kQ8_0 ? low : (low + 8) | (code(n, k + i + kBlock / 2) + 8) << 4);
      }
    }
  }
  return out;
}

}  // namespace ashlar
