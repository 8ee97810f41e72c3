#include "kernels/kv_page.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "kernels/dispatch.h"
#include "kernels/kv_side.h"

namespace ashlar {
namespace {

/// Bytes of min and step of a row.
constexpr int64_t kRowParameterBytes = 4;

/// Bytes of one encoded key and, where it has its own, value.
struct RowBytes {
  int64_t key, value;
};
RowBytes row_bytes(const KvPageShape& s) {
  const int64_t elsewhere = s.channelwise ? kRowParameterBytes : 0;
  return {codec_vector_bytes(s.key_codec, s.key_dim) - elsewhere,
          s.value_in_key ? 0 : codec_vector_bytes(s.value_codec, s.value_dim)};
}

void check(const KvPageShape& s) {
  ASHLAR_CHECK(s.heads >= 1 && s.key_dim >= 1 && s.page_rows >= 1);
  ASHLAR_CHECK(s.value_in_key || s.value_dim >= 1);
  ASHLAR_CHECK(!s.channelwise || (!s.value_in_key && s.heads == 1 && s.key_codec == s.value_codec &&
                                  codec_levels(s.key_codec) > 0));
}

void check_rows(const KvPageShape& s, int64_t first, int64_t rows) {
  check(s);
  ASHLAR_CHECK(first >= 0 && rows >= 0 && first <= s.page_rows - rows);
}

KvSide key_side(const KvPageShape& s) {
  return {s.key_codec, !s.value_in_key, s.page_rows, s.key_dim, s.channelwise};
}
KvSide value_side(const KvPageShape& s) { return {s.value_codec, false, s.page_rows, s.value_dim}; }

void copy_side_row(const KvSide& side, const std::byte* from, int64_t from_row, std::byte* to,
                   int64_t to_row) {
  const KvLayout l = kv_layout(side);
  if (codec_levels(side.codec) > 0 && !side.channelwise) {
    std::memcpy(to + l.min + 2 * to_row, from + l.min + 2 * from_row, 2);
    std::memcpy(to + l.step + 2 * to_row, from + l.step + 2 * from_row, 2);
  }
  for (int p = 0; p < l.planes; ++p) {
    for (int64_t u = 0; u < l.units[p];) {
      const int64_t n = std::min(l.together(p, from_row, u), l.together(p, to_row, u));
      std::memcpy(to + l.at(p, to_row, u), from + l.at(p, from_row, u),
                  static_cast<size_t>(n * l.unit_bytes));
      u += n;
    }
  }
}

}  // namespace

KvLayout kv_layout(const KvSide& side) {
  KvLayout l;
  const int64_t rows = side.page_rows, dim = side.dim;
  l.step = 2 * rows;
  const bool parameters = codec_levels(side.codec) > 0 && !side.channelwise;
  l.code[0] = parameters ? kRowParameterBytes * rows : 0;
  switch (side.codec) {
    case CodecKind::kF32:
      l.unit_bytes = 4;
      l.units[0] = dim;
      break;
    case CodecKind::kF16:
    case CodecKind::kBF16:
      l.unit_bytes = 2;
      l.units[0] = dim;
      break;
    case CodecKind::kQ8:
      l.units[0] = dim;
      break;
    case CodecKind::kQ4:
      l.units[0] = (dim + 1) / 2;
      break;
    case CodecKind::kQ3:
      l.planes = 2;
      l.units[1] = (dim + 7) / 8;
      [[fallthrough]];
    case CodecKind::kQ2:
      l.units[0] = (dim + 3) / 4;
      break;
  }
  l.by_column = side.by_column;
  l.page_rows = rows;
  const int64_t before = side.by_column ? rows : l.cell_rows() > 0 ? kCellUnits : 1;
  l.code[1] = l.code[0] + before * l.units[0] * l.unit_bytes;
  return l;
}

int64_t kv_page_bytes(const KvPageShape& shape) {
  check(shape);
  const RowBytes row = row_bytes(shape);
  return shape.page_rows * shape.heads * (row.key + row.value);
}

KvRun kv_page_run(const KvPageShape& shape, int64_t head) {
  check(shape);
  ASHLAR_CHECK(head >= 0 && head < shape.heads);
  const RowBytes row = row_bytes(shape);
  KvRun run;
  run.key_codec = shape.key_codec;
  run.value_codec = shape.value_codec;
  run.value_in_key = shape.value_in_key;
  run.page_rows = shape.page_rows;
  run.key_offset = head * shape.page_rows * (row.key + row.value);
  run.value_offset = run.key_offset + (shape.value_in_key ? 0 : shape.page_rows * row.key);
  return run;
}

void kv_page_encode(const KernelTable& kernels, const KvPageShape& shape, std::byte* page,
                    int64_t first, int64_t rows, const float* keys, int64_t key_stride,
                    const float* values, int64_t value_stride) {
  check_rows(shape, first, rows);
  ASHLAR_CHECK(!shape.channelwise);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const KvRun run = kv_page_run(shape, h);
    kernels.kv_encode(key_side(shape), page + run.key_offset, first, rows, keys + h * shape.key_dim,
                      key_stride);
    if (shape.value_in_key) continue;
    kernels.kv_encode(value_side(shape), page + run.value_offset, first, rows,
                      values + h * shape.value_dim, value_stride);
  }
}

void kv_page_decode(const KernelTable& kernels, const KvPageShape& shape, const std::byte* page,
                    int64_t first, int64_t rows, float* keys, int64_t key_stride, float* values,
                    int64_t value_stride) {
  check_rows(shape, first, rows);
  ASHLAR_CHECK(!shape.channelwise && (!shape.value_in_key || values == nullptr));
  for (int64_t h = 0; h < shape.heads; ++h) {
    const KvRun run = kv_page_run(shape, h);
    kernels.kv_decode(key_side(shape), page + run.key_offset, first, rows, keys + h * shape.key_dim,
                      key_stride);
    if (values == nullptr) continue;
    kernels.kv_decode(value_side(shape), page + run.value_offset, first, rows,
                      values + h * shape.value_dim, value_stride);
  }
}

void kv_page_encode(const KvPageShape& shape, std::byte* page, int64_t first, int64_t rows,
                    const float* keys, int64_t key_stride, const float* values,
                    int64_t value_stride) {
  kv_page_encode(active_kernels(), shape, page, first, rows, keys, key_stride, values,
                 value_stride);
}

void kv_page_decode(const KvPageShape& shape, const std::byte* page, int64_t first, int64_t rows,
                    float* keys, int64_t key_stride, float* values, int64_t value_stride) {
  kv_page_decode(active_kernels(), shape, page, first, rows, keys, key_stride, values,
                 value_stride);
}

void kv_page_copy_row(const KvPageShape& shape, const std::byte* from_page, int64_t from,
                      std::byte* to_page, int64_t to) {
  check_rows(shape, from, 1);
  check_rows(shape, to, 1);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const KvRun run = kv_page_run(shape, h);
    copy_side_row(key_side(shape), from_page + run.key_offset, from, to_page + run.key_offset, to);
    if (shape.value_in_key) continue;
    copy_side_row(value_side(shape), from_page + run.value_offset, from, to_page + run.value_offset,
                  to);
  }
}

}  // namespace ashlar
