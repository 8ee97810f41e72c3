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
      // Bytes of one row before this plane, in it, and in all.
      const int64_t before = plane == 0 ? 0 : (dim + 3) / 4, u = i / per_byte;
      const int64_t units = (dim + per_byte - 1) / per_byte;
      const int64_t all = codec_vector_bytes(codec(value), dim) - 4;
      const bool by_column = !value && !shape_.value_in_key;
      const int64_t at =
          by_column ? key_byte(before, units, row, u) : value_byte(all, row, before + u);
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
  // By column four bytes of a row are neighbours, and then the next row's; what is left over of the
  // plane lies byte by byte.
  int64_t key_byte(int64_t before, int64_t units, int64_t row, int64_t u) const {
    const int64_t P = shape_.page_rows, plane = before * P;
    if (u >= units - units % 4) return plane + u * P + row;
    return plane + u / 4 * 4 * P + 4 * row + u % 4;
  }
  // By row each byte of four rows, 0 2 1 3; what is left over of the page lies row by row.
  int64_t value_byte(int64_t all, int64_t row, int64_t byte) const {
    constexpr int64_t kPlace[] = {0, 2, 1, 3};
    if (row >= shape_.page_rows - shape_.page_rows % 4) return row * all + byte;
    return row / 4 * 4 * all + 4 * byte + kPlace[row % 4];
  }
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
