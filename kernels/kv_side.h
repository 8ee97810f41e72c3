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

/// Units of codes that a cell holds.
inline constexpr int64_t kCellUnits = 4;

/// Byte offsets from the side's base.
struct KvLayout {
  int64_t min = 0;   ///< affine codecs, not channelwise: min of row r at min + 2r
  int64_t step = 0;  ///< and its step at step + 2r
  int planes = 1;    ///< q3 has two
  int64_t unit_bytes = 1;
  int64_t units[2] = {0, 0};  ///< of one row
  int64_t code[2] = {0, 0};   ///< unit 0 of row 0 of each plane
  bool by_column = false;
  int64_t page_rows = 1;

  bool cells() const { return unit_bytes == 1; }
  /// Units of a row, all planes.
  int64_t row_units() const { return units[0] + units[1]; }
  /// Units of plane p that fill cells by column; those left over stand alone.
  int64_t cell_units(int p) const { return units[p] / kCellUnits * kCellUnits; }
  /// Rows that fill cells by row.
  int64_t cell_rows() const { return page_rows / kCellUnits * kCellUnits; }

  // Always inlined: code of one instruction set must not serve another.
  /// Where unit u of plane p of a row is.
  __attribute__((always_inline)) int64_t at(int p, int64_t row, int64_t u) const {
    if (!cells())
      return code[0] + (by_column ? u * page_rows + row : row * units[0] + u) * unit_bytes;
    const int64_t in_cell = u % kCellUnits;
    if (by_column) {
      if (u >= cell_units(p)) return code[p] + u * page_rows + row;
      return code[p] + (u - in_cell) * page_rows + row * kCellUnits + in_cell;
    }
    const int64_t unit = p == 0 ? u : units[0] + u;
    if (row >= cell_rows()) return code[0] + row * row_units() + unit;
    const int64_t r = row % kCellUnits, place = r / 2 + r % 2 * 2;
    return code[0] + (row - r) * row_units() + unit * kCellUnits + place;
  }
  /// Units from unit u on that lie side by side: a cell's, one, or all.
  __attribute__((always_inline)) int64_t together(int p, int64_t row, int64_t u) const {
    if (by_column) return cells() && u < cell_units(p) ? kCellUnits - u % kCellUnits : 1;
    return cells() && row < cell_rows() ? 1 : units[p] - u;
  }
};

KvLayout kv_layout(const KvSide& side);

}  // namespace ashlar
