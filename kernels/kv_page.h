#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/codec.h"

// How encoded keys and values lie in a page. A page holds `page_rows` rows (cached entries) of some
// KV heads of one lane, head by head:
//   keys:   min [P] fp16, step [P] fp16 (affine codecs only), then units column by column: unit u
//           of all P rows side by side, so that a register holds one unit of sixteen rows;
//   values: min [P], step [P], then the units of row 0, of row 1, ...
// A unit is the smallest whole number of bytes of one row: one element of fp32, fp16, bf16 and q8,
// two of q4 (low nibble first), four of q2; q3 is a q2 plane followed by a plane of eighths.
// Codes, whose units are bytes, come in cells of four, so that a register holds a cell in each
// lane:
//   keys:   units 4g … 4g + 3 of row 0, of row 1, ...; a plane's last one to three units, which
//           fill no cell, one after another as above;
//   values: unit u of rows 4h, 4h + 2, 4h + 1 and 4h + 3 (whose 16-bit halves mask to neighbours),
//           then their unit u + 1, ..., the second plane behind the first; the last one to three
//           rows of a page, which fill no cell, one after another as above.
// Pages of a channelwise shape hold codes of q4 or q2 whose keys' parameters are those of channels
// and lie elsewhere (kernels/kv_zip.h): nothing but the keys' min and step is missing.
// Where the value lies in the key (latent attention) a page holds keys alone, row by row.
// Rows never depend on each other: a row may be copied to any other place of a page of the same
// shape.

namespace ashlar {

struct KvPageShape {
  CodecKind key_codec = CodecKind::kF16;
  CodecKind value_codec = CodecKind::kF16;  ///< unused if value_in_key
  int64_t heads = 1;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  bool value_in_key = false;
  int64_t page_rows = 16;  ///< P ≥ 1; whole multiples of 16 are read without a copy
  bool channelwise = false;

  bool operator==(const KvPageShape&) const = default;
};

/// P · heads · (encoded key + encoded value), parameters included: nothing is padded.
int64_t kv_page_bytes(const KvPageShape& shape);

/// Encodes `rows` rows into rows [first, first + rows) of `page`. keys: [rows, heads, key_dim],
/// values: [rows, heads, value_dim], rows `key_stride` and `value_stride` floats apart; values are
/// ignored if they lie in the keys. Codes are those of kernels/codec.h; the shape is not
/// channelwise (zip_encode, zip_decode).
void kv_page_encode(const KvPageShape& shape, std::byte* page, int64_t first, int64_t rows,
                    const float* keys, int64_t key_stride, const float* values,
                    int64_t value_stride);

/// The inverse: what attention sees. `values` may be null; where they lie in the keys it must be.
void kv_page_decode(const KvPageShape& shape, const std::byte* page, int64_t first, int64_t rows,
                    float* keys, int64_t key_stride, float* values, int64_t value_stride);

/// Copies one row, all heads, byte for byte. The pages may be the same; `from` ≠ `to` then.
void kv_page_copy_row(const KvPageShape& shape, const std::byte* from_page, int64_t from,
                      std::byte* to_page, int64_t to);

/// What attention needs to know of head `head` (of the page's heads); pages, first and rows are the
/// caller's.
KvRun kv_page_run(const KvPageShape& shape, int64_t head);

}  // namespace ashlar
