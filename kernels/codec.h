#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ashlar {

/// How a cached key or value vector of one token and one head is stored.
/// q8/q4: asymmetric, per token and head, range clipped by 0.95 about its centre:
///   x ≈ min + step·code, code in 0…2^b−1, min and step fp16 (QuaRot, arXiv 2404.00456 §4).
/// Codes come from the rounded parameters. A step that fp16 rounds to zero (a zero range, or one
/// below 2^-25 per level) gives step 0, codes 0 and the centre as `min`: constant rows are exact up
/// to fp16 rounding. fp16, q8 and q4 want |x| ≤ 65504: larger values, infinities and NaN encode
/// without undefined behaviour, but their row (fp16: their element) may decode to infinity or NaN.
/// Bytes and decoded floats are the same on every ISA.
enum class CodecKind : uint8_t { kF32, kF16, kQ8, kQ4 };

/// Names on the command line: fp32 fp16 q8 q4.
std::string_view codec_name(CodecKind kind);
/// Throws Error(kRequest) listing the known names.
CodecKind codec_from_name(std::string_view name);

/// Bytes of one encoded vector of `dim` elements, parameters included: 4d, 2d, d+4, ceil(d/2)+4.
/// q8/q4 store fp16 min, fp16 step, then the codes (q4: low nibble = even index).
int64_t codec_vector_bytes(CodecKind kind, int64_t dim);
/// Every codec so far keeps its parameters beside the row, so compaction may move rows verbatim.
bool codec_row_movable(CodecKind kind);

/// Encodes `rows` vectors of `dim` floats (row stride in elements) to `out` (row stride in bytes).
void codec_encode(CodecKind kind, const float* x, int64_t x_stride, int64_t rows, int64_t dim,
                  std::byte* out, int64_t out_stride);
/// Decodes to floats; the exact inverse of what attention sees.
void codec_decode(CodecKind kind, const std::byte* in, int64_t in_stride, int64_t rows, int64_t dim,
                  float* x, int64_t x_stride);

}  // namespace ashlar
