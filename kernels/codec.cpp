#include "kernels/codec.h"

#include "core/base/error.h"
#include "kernels/dispatch.h"

namespace ashlar {

std::string_view codec_name(CodecKind kind) {
  switch (kind) {
    case CodecKind::kF32:
      return "fp32";
    case CodecKind::kF16:
      return "fp16";
    case CodecKind::kQ8:
      return "q8";
    case CodecKind::kQ4:
      return "q4";
  }
  fail(ErrorCode::kInternal, "unknown codec {}", static_cast<int>(kind));
}

CodecKind codec_from_name(std::string_view name) {
  for (const CodecKind kind : {CodecKind::kF32, CodecKind::kF16, CodecKind::kQ8, CodecKind::kQ4}) {
    if (codec_name(kind) == name) return kind;
  }
  fail(ErrorCode::kRequest, "unknown KV codec '{}' (known: fp32, fp16, q8, q4)", name);
}

int64_t codec_vector_bytes(CodecKind kind, int64_t dim) {
  switch (kind) {
    case CodecKind::kF32:
      return 4 * dim;
    case CodecKind::kF16:
      return 2 * dim;
    case CodecKind::kQ8:
      return dim + 4;
    case CodecKind::kQ4:
      return (dim + 1) / 2 + 4;
  }
  fail(ErrorCode::kInternal, "unknown codec {}", static_cast<int>(kind));
}

bool codec_row_movable(CodecKind) { return true; }

void codec_encode(const KernelTable& kernels, CodecKind kind, const float* x, int64_t x_stride,
                  int64_t rows, int64_t dim, std::byte* out, int64_t out_stride) {
  ASHLAR_CHECK_GE(dim, 1);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.encode_row(kind, x + r * x_stride, dim, out + r * out_stride);
  }
}

void codec_decode(const KernelTable& kernels, CodecKind kind, const std::byte* in,
                  int64_t in_stride, int64_t rows, int64_t dim, float* x, int64_t x_stride) {
  ASHLAR_CHECK_GE(dim, 1);
  for (int64_t r = 0; r < rows; ++r) {
    kernels.decode_row(kind, in + r * in_stride, dim, x + r * x_stride);
  }
}

void codec_encode(CodecKind kind, const float* x, int64_t x_stride, int64_t rows, int64_t dim,
                  std::byte* out, int64_t out_stride) {
  codec_encode(active_kernels(), kind, x, x_stride, rows, dim, out, out_stride);
}

void codec_decode(CodecKind kind, const std::byte* in, int64_t in_stride, int64_t rows, int64_t dim,
                  float* x, int64_t x_stride) {
  codec_decode(active_kernels(), kind, in, in_stride, rows, dim, x, x_stride);
}

}  // namespace ashlar
