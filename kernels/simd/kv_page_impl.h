#pragma once

// Included after one ISA header. Encodes and decodes rows of one head's keys or values in a page.
// Contracts: kernels/kv_page.h.

#include <type_traits>

#include "kernels/simd/codec_impl.h"

namespace ashlar {
namespace {

/// Copies `count` pieces of kBytes that lie `stride` apart in a page from or to `units`, where they
/// lie side by side. Byte: const where the page is read.
template <int kBytes, typename Byte>
ASHLAR_INLINE void copy_pieces(Byte* page, int64_t stride, int64_t count, std::byte* units) {
  for (int64_t u = 0; u < count; ++u) {
    if constexpr (std::is_const_v<Byte>) {
      __builtin_memcpy(units + u * kBytes, page + u * stride, kBytes);
    } else {
      __builtin_memcpy(page + u * stride, units + u * kBytes, kBytes);
    }
  }
}
/// Likewise units [first, first + count) of plane p of a row; first is a whole number of cells.
template <typename Byte>
ASHLAR_INLINE void copy_units(const KvLayout& l, Byte* side, int p, int64_t row, int64_t first,
                              int64_t count, std::byte* units) {
  Byte* const from = side + l.at(p, row, first);
  if (!l.cells()) {
    const int64_t stride = l.by_column ? l.page_rows * l.unit_bytes : l.unit_bytes;
    if (l.unit_bytes == 2) return copy_pieces<2>(from, stride, count, units);
    return copy_pieces<4>(from, stride, count, units);
  }
  if (!l.by_column) {
    return copy_pieces<1>(from, row < l.cell_rows() ? kCellUnits : 1, count, units);
  }
  const int64_t left = l.cell_units(p) - first, whole = left < count ? left : count;
  if (whole > 0) {
    copy_pieces<kCellUnits>(from, kCellUnits * l.page_rows, whole / kCellUnits, units);
    units += whole;
    first += whole;
    count -= whole;
  }
  if (count > 0) copy_pieces<1>(side + l.at(p, row, first), l.page_rows, count, units);
}

/// Units of plane p that elements [i, i + n) of a row fill, i a multiple of 64.
struct Units {
  int64_t first, count;
};
ASHLAR_INLINE Units units_of(CodecKind kind, int plane, int64_t i, int64_t n) {
  const int64_t elements = plane == 1 ? 8 : unit_elements(kind);
  return {i / elements, (n + elements - 1) / elements};
}

struct RowCodes {
  Vf min, step, levels;
  bool constant;
};

void encode_chunk(CodecKind kind, const float* x, int64_t n, const RowCodes& row, CodecChunk& out) {
  switch (kind) {
    case CodecKind::kF32:
      __builtin_memcpy(out.plane[0], x, static_cast<size_t>(n) * sizeof(float));
      return;
    case CodecKind::kF16:
      for_spans(n, [&](int64_t i, int64_t m) {
        vstore_half(out.plane[0] + 2 * i, vload_span(x + i, m));
      });
      return;
    case CodecKind::kBF16:
      for (int64_t i = 0; i < n; ++i) store_u16(out.plane[0] + 2 * i, bfloat_bits(x[i]));
      return;
    default:
      break;
  }
  alignas(64) std::byte code[kCodecChunk] = {};
  for_spans(n, [&](int64_t i, int64_t m) {
    istore_u8(code + i, affine_codes(x + i, m, row.min, row.step, row.levels, row.constant));
    for (int64_t j = m; j < kLanes; ++j) code[i + j] = std::byte{0};
  });
  pack_codes(kind, code, out);
}

void kv_encode_kernel(const KvSide& side, std::byte* base, int64_t first, int64_t rows,
                      const float* x, int64_t stride) {
  const KvLayout l = kv_layout(side);
  const bool affine = is_affine(side.codec);
  const float levels = levels_of(side.codec), clip = codec_clip(side.codec);
  RowCodes row{vzero(), vzero(), vset(levels), false};
  CodecChunk chunk;
  for (int64_t r = first; r < first + rows; ++r, x += stride) {
    if (affine) {
      const AffineParameters p = affine_parameters(x, side.dim, levels, clip);
      store_u16(base + l.min + 2 * r, p.min);
      store_u16(base + l.step + 2 * r, p.step);
      row.min = vset(half_value(p.min));
      row.step = vset(half_value(p.step));
      row.constant = (p.step & 0x7fffu) == 0;
    }
    for (int64_t i = 0; i < side.dim; i += kCodecChunk) {
      const int64_t n = side.dim - i < kCodecChunk ? side.dim - i : kCodecChunk;
      encode_chunk(side.codec, x + i, n, row, chunk);
      for (int p = 0; p < l.planes; ++p) {
        const Units u = units_of(side.codec, p, i, n);
        copy_units(l, base, p, r, u.first, u.count, chunk.plane[p]);
      }
    }
  }
}

/// Sixteen elements from element i of the chunk on, before min and step.
ASHLAR_INLINE Vf chunk_elements(CodecKind kind, const CodecChunk& in, const std::byte* code,
                                int64_t i) {
  switch (kind) {
    case CodecKind::kF32:
      return vload(reinterpret_cast<const float*>(in.plane[0]) + i);
    case CodecKind::kF16:
      return vload_half(in.plane[0] + 2 * i);
    case CodecKind::kBF16:
      return vload_bfloat(in.plane[0] + 2 * i);
    default:
      return vload_u8(code + i);
  }
}

/// kCodes: the codes themselves, not what they stand for.
template <bool kCodes>
void decode_rows(const KvSide& side, const std::byte* base, int64_t first, int64_t rows, float* x,
                 int64_t stride) {
  const KvLayout l = kv_layout(side);
  const bool affine = is_affine(side.codec);
  CodecChunk chunk = {};
  alignas(64) std::byte code[kCodecChunk];
  for (int64_t r = first; r < first + rows; ++r, x += stride) {
    Vf min = vzero(), step = vzero();
    if (affine && !kCodes) {
      min = vset(half_value(load_u16(base + l.min + 2 * r)));
      step = vset(half_value(load_u16(base + l.step + 2 * r)));
    }
    for (int64_t i = 0; i < side.dim; i += kCodecChunk) {
      const int64_t n = side.dim - i < kCodecChunk ? side.dim - i : kCodecChunk;
      for (int p = 0; p < l.planes; ++p) {
        const Units u = units_of(side.codec, p, i, n);
        copy_units(l, base, p, r, u.first, u.count, chunk.plane[p]);
      }
      if (affine) unpack_codes(side.codec, chunk, code);
      for_spans(n, [&](int64_t j, int64_t m) {
        Vf v = chunk_elements(side.codec, chunk, code, j);
        if (affine && !kCodes) v = vfma(step, v, min);
        vstore_span(x + i + j, m, v);
      });
    }
  }
}

void kv_decode_kernel(const KvSide& side, const std::byte* base, int64_t first, int64_t rows,
                      float* x, int64_t stride) {
  decode_rows<false>(side, base, first, rows, x, stride);
}

}  // namespace
}  // namespace ashlar
