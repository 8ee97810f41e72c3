#include "kernels/kv_zip.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "kernels/kv_side.h"

// Segments are encoded once, so this is plain code and its bytes are the same everywhere.

namespace ashlar {
namespace {

void put_half(std::byte* at, int64_t i, uint16_t half) { std::memcpy(at + 2 * i, &half, 2); }
float get_half(const std::byte* at, int64_t i) {
  uint16_t half = 0;
  std::memcpy(&half, at + 2 * i, 2);
  return half_to_float(half);
}

struct Range {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  // A number that is none compares false.
  void add(float x) {
    if (x < low) low = x;
    if (x > high) high = x;
  }
};

struct Affine {
  uint16_t min = 0, step = 0;
};
Affine affine_of(const Range& range, float levels) {
  if (!(range.low <= range.high)) return {};
  // By halves: their difference may be beyond what a float holds.
  const float half_range = 0.5f * range.high - 0.5f * range.low;
  const uint16_t step = float_to_half(2 * half_range / levels);
  const bool constant = (step & 0x7fffu) == 0;
  return {float_to_half(constant ? range.low + half_range : range.low), step};
}

// round((x − min) / step) within 0 … levels; a number that is none gives 0.
uint8_t code_of(float x, float min, float step, float levels) {
  if (step == 0) return 0;
  float c = (x - min) / step;
  c = c > 0 ? c : 0;
  c = c < levels ? c : levels;
  return static_cast<uint8_t>(std::nearbyint(c));
}

float levels_of(const KvPageShape& shape) {
  return static_cast<float>(codec_levels(shape.key_codec));
}

KvSide key_side(const KvPageShape& s) { return {s.key_codec, true, s.page_rows, s.key_dim, true}; }
KvSide value_side(const KvPageShape& s) { return {s.value_codec, false, s.page_rows, s.value_dim}; }

/// The codes of one row: two or four of them in a byte.
class RowCodes {
 public:
  RowCodes(const KvSide& side, int64_t row)
      : layout_(kv_layout(side)),
        per_unit_(side.codec == kZipSalient ? 2 : 4),
        dim_(side.dim),
        row_(row) {}

  template <typename Code>
  void write(std::byte* side, const Code& code) const {
    for (int64_t u = 0; u < layout_.units[0]; ++u) {
      unsigned unit = 0;
      for (int64_t e = 0; e < per_unit_ && u * per_unit_ + e < dim_; ++e) {
        unit |= unsigned{code(u * per_unit_ + e)} << (e * 8 / per_unit_);
      }
      side[layout_.at(0, row_, u)] = static_cast<std::byte>(unit);
    }
  }
  float read(const std::byte* side, int64_t i) const {
    const auto unit = static_cast<unsigned>(side[layout_.at(0, row_, i / per_unit_)]);
    const unsigned mask = per_unit_ == 2 ? 15u : 3u;
    return static_cast<float>(unit >> (i % per_unit_ * 8 / per_unit_) & mask);
  }

 private:
  KvLayout layout_;
  int64_t per_unit_, dim_, row_;
};

void check_rows(const KvPageShape& shape, int64_t first, int64_t rows) {
  ASHLAR_CHECK(shape.channelwise &&
               (shape.key_codec == kZipSalient || shape.key_codec == kZipRegular));
  ASHLAR_CHECK(first >= 0 && rows >= 0 && first <= shape.page_rows - rows);
}

void set_parameters(const float* keys, int64_t rows, int64_t dim, CodecKind set, std::byte* to) {
  std::vector<Range> ranges(static_cast<size_t>(dim));
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < dim; ++i) ranges[static_cast<size_t>(i)].add(keys[t * dim + i]);
  }
  for (int64_t i = 0; i < dim; ++i) {
    const Affine a =
        affine_of(ranges[static_cast<size_t>(i)], static_cast<float>(codec_levels(set)));
    put_half(to, i, a.min);
    put_half(to, dim + i, a.step);
  }
}

}  // namespace

KvPageShape zip_page(const ZipShape& shape, CodecKind set, int64_t page_rows) {
  ASHLAR_CHECK(set == kZipSalient || set == kZipRegular);
  return {set, set, 1, shape.key_dim, shape.value_dim, false, page_rows, true};
}

int64_t zip_parameter_bytes(const ZipShape& shape) {
  return 8 * shape.key_dim + 2 * shape.value_dim;
}

ZipChannels zip_channels(const ZipShape& shape, CodecKind set, const std::byte* parameters) {
  return {parameters + (set == kZipSalient ? 0 : 4 * shape.key_dim),
          parameters + 8 * shape.key_dim};
}

void zip_parameters(const ZipShape& shape, const float* keys, const float* values, int64_t rows,
                    int64_t salient, std::byte* parameters) {
  ASHLAR_CHECK(salient >= 0 && salient <= rows);
  const int64_t dim = shape.key_dim, width = shape.value_dim;
  set_parameters(keys, salient, dim, kZipSalient, parameters);
  set_parameters(keys + salient * dim, rows - salient, dim, kZipRegular, parameters + 4 * dim);
  std::vector<float> largest(static_cast<size_t>(width));
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < width; ++i) {
      const float x = std::fabs(values[t * width + i]);
      float& top = largest[static_cast<size_t>(i)];
      if (x > top) top = x;
    }
  }
  for (int64_t i = 0; i < width; ++i) {
    put_half(parameters + 8 * dim, i, float_to_half(std::sqrt(largest[static_cast<size_t>(i)])));
  }
}

void zip_encode(const KvPageShape& shape, std::byte* page, int64_t first, int64_t rows,
                const float* keys, int64_t key_stride, const float* values, int64_t value_stride,
                const ZipChannels& channels) {
  check_rows(shape, first, rows);
  const int64_t dim = shape.key_dim, width = shape.value_dim;
  const float levels = levels_of(shape);
  const KvRun run = kv_page_run(shape, 0);
  std::byte* const key_base = page + run.key_offset;
  std::byte* const value_base = page + run.value_offset;
  std::vector<float> min(static_cast<size_t>(dim)), step(min);
  for (int64_t i = 0; i < dim; ++i) {
    min[static_cast<size_t>(i)] = get_half(channels.key, i);
    step[static_cast<size_t>(i)] = get_half(channels.key, dim + i);
  }
  std::vector<float> factor(static_cast<size_t>(width)), y(factor);
  for (int64_t i = 0; i < width; ++i) factor[static_cast<size_t>(i)] = get_half(channels.value, i);
  const KvLayout value_layout = kv_layout(value_side(shape));
  for (int64_t r = first; r < first + rows; ++r, keys += key_stride, values += value_stride) {
    RowCodes(key_side(shape), r).write(key_base, [&](int64_t i) {
      const auto c = static_cast<size_t>(i);
      return code_of(keys[i], min[c], step[c], levels);
    });
    Range range;
    for (int64_t i = 0; i < width; ++i) {
      const auto c = static_cast<size_t>(i);
      if (factor[c] == 0) continue;
      y[c] = values[i] / factor[c];
      range.add(y[c]);
    }
    const Affine a = affine_of(range, levels);
    put_half(value_base + value_layout.min, r, a.min);
    put_half(value_base + value_layout.step, r, a.step);
    const float row_min = half_to_float(a.min), row_step = half_to_float(a.step);
    RowCodes(value_side(shape), r).write(value_base, [&](int64_t i) {
      const auto c = static_cast<size_t>(i);
      return factor[c] == 0 ? uint8_t{0} : code_of(y[c], row_min, row_step, levels);
    });
  }
}

void zip_decode(const KvPageShape& shape, const std::byte* page, int64_t first, int64_t rows,
                float* keys, int64_t key_stride, float* values, int64_t value_stride,
                const ZipChannels& channels) {
  check_rows(shape, first, rows);
  const int64_t dim = shape.key_dim;
  const KvRun run = kv_page_run(shape, 0);
  const std::byte* const key_base = page + run.key_offset;
  const std::byte* const value_base = page + run.value_offset;
  const KvLayout layout = kv_layout(value_side(shape));
  for (int64_t r = first; r < first + rows; ++r, keys += key_stride, values += value_stride) {
    const RowCodes key(key_side(shape), r), value(value_side(shape), r);
    for (int64_t i = 0; i < dim; ++i) {
      keys[i] = get_half(channels.key, dim + i) * key.read(key_base, i) + get_half(channels.key, i);
    }
    const float min = get_half(value_base + layout.min, r);
    const float step = get_half(value_base + layout.step, r);
    for (int64_t i = 0; i < shape.value_dim; ++i) {
      values[i] = (step * value.read(value_base, i) + min) * get_half(channels.value, i);
    }
  }
}

KvRun zip_run(const KvPageShape& shape, const ZipChannels& channels) {
  KvRun run = kv_page_run(shape, 0);
  run.key_channels = channels.key;
  run.value_channels = channels.value;
  return run;
}

}  // namespace ashlar
