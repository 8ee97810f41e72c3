#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ashlar {

/// How a cached key or value vector of one token and one head is stored.
/// q8/q4/q3/q2: asymmetric, per token and head, range shrunk about its centre:
///   x ≈ min + step·code, code in 0…2^b−1, min and step fp16 (QuaRot, arXiv 2404.00456 §4).
/// Codes come from the rounded parameters. A step that fp16 rounds to zero (a zero range, or one
/// below 2^-25 per level) gives step 0, codes 0 and the centre as `min`: constant rows are exact up
/// to fp16 rounding. fp16 and the affine codecs want |x| ≤ 65504: larger values, infinities and NaN
/// encode without undefined behaviour, but their row (fp16, bf16: their element) may decode to
/// infinity or NaN. Bytes and decoded floats are the same on every ISA.
enum class CodecKind : uint8_t { kF32, kF16, kBF16, kQ8, kQ4, kQ3, kQ2 };

inline constexpr CodecKind kCodecKinds[] = {CodecKind::kF32, CodecKind::kF16, CodecKind::kBF16,
                                            CodecKind::kQ8,  CodecKind::kQ4,  CodecKind::kQ3,
                                            CodecKind::kQ2};

/// Names on the command line: fp32 fp16 bf16 q8 q4 q3 q2.
std::string_view codec_name(CodecKind kind);
/// Throws Error(kRequest) listing the known names.
CodecKind codec_from_name(std::string_view name);

/// Bytes of one encoded vector of `dim` elements, parameters included: 4d, 2d, 2d, d+4,
/// ceil(d/2)+4, ceil(d/4)+ceil(d/8)+4, ceil(d/4)+4. How they lie in memory: kernels/kv_page.h.
int64_t codec_vector_bytes(CodecKind kind, int64_t dim);

/// 2^b − 1 of the affine codecs, 0 of the others.
int codec_levels(CodecKind kind);
/// The part of a row's range that an affine codec keeps: q8 1 (clipping would dominate its error),
/// q4 0.95 (QuaRot), q3 0.83, q2 0.63: the means of the best clips for Gaussian rows of 64 and of
/// 128 elements, to which a Hadamard rotation brings keys and values. Measured on 20000 rows each,
/// by steps of 0.01, parameters in fp16: best q3 0.86 and 0.80, q2 0.66 and 0.60; no clip costs q3
/// 20 and 31 % and q2 77 and 106 % more squared error than the best.
float codec_clip(CodecKind kind);

}  // namespace ashlar
