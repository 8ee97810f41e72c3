#include "kernels/codec.h"

#include "core/base/error.h"

namespace ashlar {
namespace {

struct CodecRow {
  std::string_view name;
  int levels;
  float clip;
};

const CodecRow& row_of(CodecKind kind) {
  static constexpr CodecRow kRows[] = {{"fp32", 0, 1.0f}, {"fp16", 0, 1.0f}, {"bf16", 0, 1.0f},
                                       {"q8", 255, 1.0f}, {"q4", 15, 0.95f}, {"q3", 7, 0.83f},
                                       {"q2", 3, 0.63f}};
  ASHLAR_CHECK_LT(static_cast<size_t>(kind), std::size(kRows));
  return kRows[static_cast<size_t>(kind)];
}

}  // namespace

std::string_view codec_name(CodecKind kind) { return row_of(kind).name; }
int codec_levels(CodecKind kind) { return row_of(kind).levels; }
float codec_clip(CodecKind kind) { return row_of(kind).clip; }

CodecKind codec_from_name(std::string_view name) {
  for (const CodecKind kind : kCodecKinds) {
    if (codec_name(kind) == name) return kind;
  }
  fail(ErrorCode::kRequest, "unknown KV codec '{}' (known: fp32, fp16, bf16, q8, q4, q3, q2)",
       name);
}

int64_t codec_vector_bytes(CodecKind kind, int64_t dim) {
  switch (kind) {
    case CodecKind::kF32:
      return 4 * dim;
    case CodecKind::kF16:
    case CodecKind::kBF16:
      return 2 * dim;
    case CodecKind::kQ8:
      return dim + 4;
    case CodecKind::kQ4:
      return (dim + 1) / 2 + 4;
    case CodecKind::kQ3:
      return (dim + 3) / 4 + (dim + 7) / 8 + 4;
    case CodecKind::kQ2:
      return (dim + 3) / 4 + 4;
  }
  fail(ErrorCode::kInternal, "unknown codec {}", static_cast<int>(kind));
}

}  // namespace ashlar
