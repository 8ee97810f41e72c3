#pragma once

#include <cstring>

#include "core/base/dtype.h"
#include "kernels/kv_page.h"
#include "tests/kernels/kernel_support.h"

namespace ashlar::test {

/// The parameters of an affine row as they lie in a page.
struct AffineRow {
  double min = 0, step = 0;
};

inline double half_at(const std::byte* p) {
  uint16_t h = 0;
  std::memcpy(&h, p, 2);
  return half_to_float(h);
}

/// Reads a page by the words of kernels/kv_page.h, one element at a time.
class PageReader {
 public:
  PageReader(const KvPageShape& shape, const std::byte* page) : shape_(shape), page_(page) {}

  AffineRow parameters(int64_t head, int64_t row, bool value) const {
    const std::byte* side = base(head, value);
    return {half_at(side + 2 * row), half_at(side + 2 * (shape_.page_rows + row))};
  }
  int64_t code(int64_t head, int64_t row, int64_t i, bool value) const {
    const std::byte* codes = base(head, value) + 4 * shape_.page_rows;
    const int64_t dim = value ? shape_.value_dim : shape_.key_dim;
    const auto bits = [&](int64_t plane, int64_t per_byte) {
      // Bytes of one row before and in this plane.
      const int64_t before = plane == 0 ? 0 : (dim + 3) / 4, u = i / per_byte;
      const bool by_column = !value && !shape_.value_in_key;
      const int64_t at = by_column ? (before + u) * shape_.page_rows + row
                                   : row * (codec_vector_bytes(codec(value), dim) - 4) + before + u;
      return static_cast<int64_t>(codes[at]) >> (i % per_byte * (8 / per_byte));
    };
    switch (codec(value)) {
      case CodecKind::kQ8:
        return bits(0, 1);
      case CodecKind::kQ4:
        return bits(0, 2) & 15;
      case CodecKind::kQ3:
        return (bits(0, 4) & 3) + 4 * (bits(1, 8) & 1);
      default:
        return bits(0, 4) & 3;
    }
  }
  double element(int64_t head, int64_t row, int64_t i, bool value) const {
    if (codec_levels(codec(value)) > 0) {
      const AffineRow p = parameters(head, row, value);
      return p.min + p.step * static_cast<double>(code(head, row, i, value));
    }
    const int64_t dim = value ? shape_.value_dim : shape_.key_dim;
    const bool by_column = !value && !shape_.value_in_key;
    const int64_t at = by_column ? i * shape_.page_rows + row : row * dim + i;
    const std::byte* side = base(head, value);
    if (codec(value) == CodecKind::kF32) {
      float x = 0;
      std::memcpy(&x, side + 4 * at, 4);
      return x;
    }
    uint16_t h = 0;
    std::memcpy(&h, side + 2 * at, 2);
    return codec(value) == CodecKind::kF16 ? half_to_float(h) : bfloat_to_float(h);
  }

 private:
  CodecKind codec(bool value) const { return value ? shape_.value_codec : shape_.key_codec; }
  const std::byte* base(int64_t head, bool value) const {
    const int64_t key = codec_vector_bytes(shape_.key_codec, shape_.key_dim);
    const int64_t own =
        shape_.value_in_key ? 0 : codec_vector_bytes(shape_.value_codec, shape_.value_dim);
    return page_ + shape_.page_rows * (head * (key + own) + (value ? key : 0));
  }

  KvPageShape shape_;
  const std::byte* page_;
};

}  // namespace ashlar::test
