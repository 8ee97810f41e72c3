#include "package/format/k_quants.h"

#include <array>
#include <cstring>

#include "core/base/error.h"

namespace ashlar {
namespace {

float half_at(const uint8_t* p) {
  uint16_t word = 0;
  std::memcpy(&word, p, 2);
  return half_to_float(word);
}

// Six-bit scale and minimum of sub-block j of 8, packed in 12 bytes.
std::pair<int, int> scale_and_min(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
          (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)};
}

// d, dmin, 12 bytes of scales, then (Q5_K) 32 bytes of fifth bits and 128 of nibbles. Each 32
// bytes of nibbles hold 64 codes: the low ones first.
void unpack_4_or_5(bool five, const uint8_t* block, uint8_t* codes, float* scale, float* min) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t *packed = block + 4, *high = block + 16, *low = block + (five ? 48 : 16);
  for (int j = 0; j < 8; ++j) {
    const auto [s, m] = scale_and_min(packed, j);
    scale[j] = d * static_cast<float>(s);
    min[j] = -(dmin * static_cast<float>(m));
    for (int l = 0; l < 32; ++l) {
      const int byte = low[j / 2 * 32 + l];
      const int nibble = j % 2 == 0 ? byte & 15 : byte >> 4;
      const int fifth = five ? (high[l] >> j & 1) << 4 : 0;
      codes[32 * j + l] = static_cast<uint8_t>(nibble | fifth);
    }
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, d. Each half of the block: 32
// byte columns hold four runs of 32 codes.
void unpack_6(const uint8_t* block, uint8_t* codes, float* scale) {
  const float d = half_at(block + 208);
  for (int j = 0; j < 16; ++j) {
    scale[j] = d * static_cast<float>(static_cast<int8_t>(block[192 + j]));
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
    for (int run = 0; run < 4; ++run) {
      for (int l = 0; l < 32; ++l) {
        const int byte = low[run % 2 * 32 + l];
        const int nibble = run < 2 ? byte & 15 : byte >> 4;
        const int code = (nibble | (high[l] >> (2 * run) & 3) << 4) - 32;
        codes[128 * half + 32 * run + l] = static_cast<uint8_t>(static_cast<int8_t>(code));
      }
    }
  }
}

}  // namespace

int64_t super_block_bytes(BlockKind kind) {
  switch (kind) {
    case BlockKind::kQ4K:
      return 144;
    case BlockKind::kQ5K:
      return 176;
    case BlockKind::kQ6K:
      return 210;
  }
  fail(ErrorCode::kInternal, "no such kind of blocks");
}

const char* block_name(BlockKind kind) {
  constexpr std::array names = {"Q4_K", "Q5_K", "Q6_K"};
  return names[static_cast<size_t>(kind)];
}

UnpackedBlocks unpacked_form(BlockKind kind) {
  if (kind == BlockKind::kQ6K) return {8, 16, false};
  return {kind == BlockKind::kQ4K ? 4 : 8, 32, true};
}

void unpack_super_block(BlockKind kind, const std::byte* block, uint8_t* codes, float* scale,
                        float* min) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(block);
  if (kind == BlockKind::kQ6K) {
    unpack_6(bytes, codes, scale);
  } else {
    unpack_4_or_5(kind == BlockKind::kQ5K, bytes, codes, scale, min);
  }
}

WeightTensor unpacked(const WeightTensor& tensor) {
  const auto* blocks = std::get_if<BlockTensor>(&tensor.value);
  if (blocks == nullptr) return tensor;
  const UnpackedBlocks form = unpacked_form(blocks->kind);
  const int64_t count = tensor.shape[0] * tensor.shape[1] / kSuperBlock;
  const int64_t block_bytes = super_block_bytes(blocks->kind), groups = kSuperBlock / form.group;
  struct Storage {
    std::vector<std::byte> codes;
    std::vector<float> scale, min;
  };
  auto storage = std::make_shared<Storage>();
  storage->codes.resize(static_cast<size_t>(count * kSuperBlock * form.bits / 8));
  storage->scale.resize(static_cast<size_t>(count * groups));
  if (form.has_min) storage->min.resize(storage->scale.size());
  std::array<uint8_t, kSuperBlock> codes{};
  for (int64_t b = 0; b < count; ++b) {
    float* min = form.has_min ? storage->min.data() + b * groups : nullptr;
    unpack_super_block(blocks->kind, blocks->data.data() + b * block_bytes, codes.data(),
                       storage->scale.data() + b * groups, min);
    std::byte* out = storage->codes.data() + b * kSuperBlock * form.bits / 8;
    for (size_t k = 0; k < codes.size(); ++k) {
      if (form.bits == 8) {
        out[k] = static_cast<std::byte>(codes[k]);
      } else {
        out[k / 2] |= static_cast<std::byte>(codes[k] << (k % 2 * 4));
      }
    }
  }
  QuantTensor q;
  q.bits = form.bits;
  q.group = form.group;
  q.parameters = DType::kF32;
  q.codes = storage->codes;
  q.scale = std::as_bytes(std::span(storage->scale));
  q.min = std::as_bytes(std::span(storage->min));
  return {tensor.name, tensor.shape, q, storage};
}

}  // namespace ashlar
