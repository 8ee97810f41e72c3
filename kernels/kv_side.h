#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec.h"

// Where the bytes of one head's keys or values lie in a page (kernels/kv_page.h), for those who
// read and write them.

namespace ashlar {

/// The keys or the values of one head in one page.
struct KvSide {
  CodecKind codec = CodecKind::kF32;
  bool by_column = false;  ///< unit u of all rows side by side; otherwise row after row
  int64_t page_rows = 1;
  int64_t dim = 0;
  bool channelwise = false;  ///< codes without parameters of their row (kernels/kv_zip.h)
};

/// Byte offsets from the side's base: unit u of plane p of row r is at
/// code[p] + r·row_stride[p] + u·unit_stride[p], `unit_bytes` wide.
struct KvLayout {
  int64_t min = 0;   ///< affine codecs, not channelwise: min of row r at min + 2r
  int64_t step = 0;  ///< and its step at step + 2r
  int planes = 1;    ///< q3 has two
  int64_t unit_bytes = 1;
  int64_t code[2] = {0, 0};
  int64_t row_stride[2] = {0, 0};
  int64_t unit_stride[2] = {0, 0};
  int64_t units[2] = {0, 0};  ///< of one row
};

KvLayout kv_layout(const KvSide& side);

}  // namespace ashlar
