#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "package/format/tensor.h"

// GGUF's element types and ours. A legacy block is 32 values of a row: an fp16 scale d (and an fp16
// minimum m), then codes; a value is d·code or d·code + m. Four low bits of elements 0…15 and
// 16…31 share bytes 0…15; the fifth bits of the 5-bit types are bit e of a 32-bit word.

namespace ashlar {

/// True for the types that can be weights here: F32, F16, BF16, the legacy blocks Q4_0, Q4_1, Q5_0,
/// Q5_1, Q8_0, and Q4_K, Q5_K, Q6_K.
bool is_weight_type(GgufType type);

/// How `weight_from_gguf` stores a tensor of `type`.
TensorEncoding gguf_encoding(GgufType type);

/// The weight [n] or [out, in] whose raw rows are `data`, without any rounding. Legacy blocks
/// become codes in order with their fp16 parameters per group of 32; dense elements and K-quants
/// stay as they are, in `data`, which `owner` keeps alive.
WeightTensor weight_from_gguf(std::string name, std::vector<int64_t> shape, GgufType type,
                              std::span<const std::byte> data, std::shared_ptr<const void> owner);

/// Rounds values to F32, F16, Q8_0 or Q4_0 as the reference implementation of GGML does (quants of
/// the Python package `gguf`), bit for bit. Throws Error(kData) naming `what` for a value that is
/// not finite or too large for the type.
std::vector<std::byte> encode_gguf(GgufType type, std::span<const float> values,
                                   const std::string& what);

/// Whether the codes of `tensor` are those of some Q8_0 or Q4_0 blocks: signed, fp16 scales, groups
/// of whole blocks, at most as many bits.
bool fits_gguf_blocks(const TensorEncoding& encoding, int64_t in, GgufType type);

/// The blocks with the codes and scales of `tensor`, of which the above holds: no rounding.
std::vector<std::byte> blocks_from_codes(const WeightTensor& tensor, GgufType type);

}  // namespace ashlar
