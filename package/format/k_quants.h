#pragma once

#include "package/format/tensor.h"

// K-quants of GGUF (ggml's block_q4_K, block_q5_K, block_q6_K): super-blocks of 256 weights whose
// 8 (Q6_K: 16) sub-blocks have 6-bit scales and minima (8-bit scales) times one fp16 factor.

namespace ashlar {

inline constexpr int64_t kSuperBlock = 256;

/// Bytes of one super-block.
int64_t super_block_bytes(BlockKind kind);
/// "Q4_K".
const char* block_name(BlockKind kind);

/// Codes and parameters of super-blocks, exact: W = scale·code + min in fp32, as the products of
/// their factors round there.
struct UnpackedBlocks {
  int bits = 8;       ///< of a code in QuantTensor: 4 for Q4_K, else 8
  int64_t group = 0;  ///< 32, Q6_K 16
  bool has_min = false;
};
UnpackedBlocks unpacked_form(BlockKind kind);

/// One super-block's codes (one a byte; signed without minima) and parameters: 256 codes, 256/group
/// scales and minima.
void unpack_super_block(BlockKind kind, const std::byte* block, uint8_t* codes, float* scale,
                        float* min);

/// The equal QuantTensor with fp32 parameters; other tensors are returned as they are.
WeightTensor unpacked(const WeightTensor& tensor);

}  // namespace ashlar
