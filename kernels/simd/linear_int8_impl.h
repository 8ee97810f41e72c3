#pragma once

// Included after one ISA header. Linear
// maps with activations rounded to 8 bits per token and weight group: x ≈ a·q, a = max|x|/127,
// q = round(x/a) in −127…127. Weight codes enter as unsigned bytes u = code + offset, so that
//   Σ code·q = Σ u·q − offset·Σq,
// exact in int32 on every ISA. For every output and segment, in ascending order,
//   y ← fma(scale·a, Σ code·q, y), then y ← fma(min, a·Σq, y) if there is a minimum.

#include "kernels/simd/linear_f32_impl.h"

namespace ashlar {
namespace {

/// Below this the reciprocal of the scale would overflow; such a group is all zeros.
constexpr float kSmallestMax = 0x1p-100f;

/// Rows of four activation codes per full group: weight rows padded as in the packed form.
ASHLAR_INLINE int64_t group_quads(const LinearLayout& layout) {
  const int64_t step = layout.shape.weight == WeightKind::kQ4 ? 8 : 4;
  return (layout.group + step - 1) / step * (step / 4);
}

/// One tile in scratch: codes [groups·quads][width] quads, scales and Σq as [segments][width].
struct TileInt8 {
  std::byte* codes;
  float* scales;
  int32_t* sums;
  int64_t width;
  int64_t first;
  int64_t tokens;
};

ASHLAR_INLINE int64_t tile_code_bytes(const LinearLayout& layout, int64_t width) {
  return align64(layout.groups * group_quads(layout) * width * kDotBytes);
}
ASHLAR_INLINE int64_t tile_int8_bytes(const LinearLayout& layout, int64_t width) {
  return tile_code_bytes(layout, width) + 2 * align64(layout.segments * width * 4);
}

TileInt8 tile_int8(const LinearJob& job, int64_t tile) {
  const LinearLayout& layout = *job.layout;
  TileInt8 t;
  t.first = tile * kTileInt8;
  const int64_t left = job.tokens - t.first;
  t.width = tile_width(left, kTileInt8);
  t.tokens = left < t.width ? left : t.width;
  t.codes = job.scratch + tile * tile_int8_bytes(layout, kTileInt8);
  std::byte* parameters = t.codes + tile_code_bytes(layout, t.width);
  t.scales = reinterpret_cast<float*>(parameters);
  t.sums = reinterpret_cast<int32_t*>(parameters + align64(layout.segments * t.width * 4));
  return t;
}

float max_magnitude(const float* x, int64_t n) {
  Vf a = vzero();
  for_spans(n, [&](int64_t i, int64_t m) { a = vmax(vabs(vload_span(x + i, m)), a); });
  return vmax_all(a);
}

/// Codes of one segment of one token; returns their sum.
int32_t quantize_segment(const float* x, int64_t n, float inverse, std::byte* out, int64_t width) {
  int32_t sum = 0;
  for (int64_t k = 0; k < n; k += kLanes) {
    const int64_t m = n - k < kLanes ? n - k : kLanes;
    int32_t code[kLanes];
    const Vi c = iround(vmul(vload_span(x + k, m), vset(inverse)));
    __builtin_memcpy(code, &c, sizeof(code));
    for (int64_t i = 0; i < kLanes; ++i) {
      // Saturation never binds for finite x; NaN and infinities give codes without meaning.
      code[i] = code[i] < -127 ? -127 : code[i] > 127 ? 127 : code[i];
      sum += code[i];
    }
    for (int64_t i = 0; i < m; i += 4)
      store_codes4(out + (k + i) / 4 * width * kDotBytes, code + i);
  }
  return sum;
}

void prepare_int8(const LinearJob& job, int64_t tile) {
  const LinearLayout& layout = *job.layout;
  const TileInt8 t = tile_int8(job, tile);
  const int64_t quads = group_quads(layout);
  __builtin_memset(t.codes, 0, static_cast<size_t>(layout.groups * quads * t.width * kDotBytes));
  for (int64_t i = 0; i < t.width; ++i) {
    const float* row = job.x + (t.first + i) * job.x_stride;
    float scale = 0.0f, inverse = 0.0f;
    for_segments(layout, [&](const Segment& s) {
      float& out_scale = t.scales[s.index * t.width + i];
      int32_t& out_sum = t.sums[s.index * t.width + i];
      if (i >= t.tokens) {
        out_scale = 0.0f;
        out_sum = 0;
        return;
      }
      if (s.in_group == 0) {
        const int64_t left = layout.shape.in - s.k;
        const float top = max_magnitude(row + s.k, left < layout.group ? left : layout.group);
        const bool zero = top < kSmallestMax;
        scale = zero ? 0.0f : top / 127.0f;
        inverse = zero ? 0.0f : 127.0f / top;
      }
      out_scale = scale;
      const int64_t quad = s.group * quads + s.in_group / 4;
      out_sum = quantize_segment(row + s.k, s.n, inverse,
                                 t.codes + (quad * t.width + i) * kDotBytes, t.width);
    });
  }
}

/// Unsigned weight bytes of kQuads quads from one raw row.
template <bool kNibbles, bool kSigned>
struct DotRow {
  static constexpr int kStep = kNibbles ? 8 : 4;
  static constexpr int kQuads = kStep / 4;
  static constexpr int32_t kOffset = !kSigned ? 0 : kNibbles ? 8 : 128;
  static ASHLAR_INLINE void load(const std::byte* p, DotWeights (&w)[kQuads]) {
    Vi raw = iload(p);
    if constexpr (kNibbles) {
      if constexpr (kSigned) raw = ixor(raw, iset(static_cast<int32_t>(0x88888888u)));
      const Vi mask = iset(0x0f0f0f0f);
      w[0] = dot_weights(iand(raw, mask));
      w[1] = dot_weights(iand(ishr<4>(raw), mask));
    } else {
      if constexpr (kSigned) raw = ixor(raw, iset(static_cast<int32_t>(0x80808080u)));
      w[0] = dot_weights(raw);
    }
  }
};

template <class Row, int T, int P>
ASHLAR_INLINE void segment_dots(const std::byte* const (&w)[P], const std::byte* x, int64_t n,
                                Vi (&dot)[P][T]) {
  for (int64_t k = 0; k < n; k += Row::kStep) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      DotWeights row[Row::kQuads];
      Row::load(w[p] + k / Row::kStep * 64, row);
#pragma GCC unroll 16
      for (int q = 0; q < Row::kQuads; ++q) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
          dot[p][t] = idot(dot[p][t], row[q], x + ((k / 4 + q) * T + t) * kDotBytes);
        }
      }
    }
  }
}

template <class Row, int T, int P>
void int8_panels(const LinearJob& job, const TileInt8& tile, int64_t panel) {
  const LinearLayout& layout = *job.layout;
  const int64_t quads = group_quads(layout);
  Vf acc[P][T];
  const std::byte* base[P];
  for (int p = 0; p < P; ++p) {
    base[p] = job.packed + (panel + p) * layout.panel_bytes;
    for (int t = 0; t < T; ++t) acc[p][t] = vzero();
  }
  for_segments(layout, [&](const Segment& s) {
    Vi dot[P][T];
    const std::byte* w[P];
    const float* a = tile.scales + s.index * T;
    const int32_t* sums = tile.sums + s.index * T;
    for (int p = 0; p < P; ++p) {
      w[p] = segment_codes(layout, base[p], s, Row::kStep, 64);
      for (int t = 0; t < T; ++t) dot[p][t] = iset(-Row::kOffset * sums[t]);
    }
    const int64_t quad = s.group * quads + s.in_group / 4;
    segment_dots<Row, T, P>(w, tile.codes + quad * T * kDotBytes, s.n, dot);
    for (int p = 0; p < P; ++p) {
      const Vf scale = panel_scale(layout, base[p], s.group);
      for (int t = 0; t < T; ++t) {
        acc[p][t] = vfma(vmul(scale, vset(a[t])), vfrom_int(dot[p][t]), acc[p][t]);
      }
      if (!layout.shape.has_min) continue;
      const Vf min = panel_min(layout, base[p], s.group);
      for (int t = 0; t < T; ++t) {
        acc[p][t] = vfma(min, vset(a[t] * static_cast<float>(sums[t])), acc[p][t]);
      }
    }
  });
  for (int p = 0; p < P; ++p) {
    const int64_t n = panel_outputs(layout, panel + p);
    for (int t = 0; t < T; ++t) {
      if (t >= tile.tokens) break;
      if (job.bias != nullptr) acc[p][t] = vadd(acc[p][t], panel_bias(job, panel + p));
      vstore_span(job.y + (tile.first + t) * job.y_stride + (panel + p) * kPanel, n, acc[p][t]);
    }
  }
}

template <class Row>
void run_int8(const LinearJob& job, int64_t panel_begin, int64_t panel_end, int64_t tile_begin,
              int64_t tile_end) {
  const TileInt8 first = tile_int8(job, tile_begin);
  const bool wide = tile_end - tile_begin == 1 && first.width == 1;
  int64_t panel = panel_begin;
  for (; wide && panel + 4 <= panel_end; panel += 4) int8_panels<Row, 1, 4>(job, first, panel);
  for (; panel < panel_end; ++panel) {
    for (int64_t i = tile_begin; i < tile_end; ++i) {
      const TileInt8 tile = tile_int8(job, i);
      with_width<kTileInt8>(tile.width, [&](auto width) {
        int8_panels<Row, decltype(width)::value, 1>(job, tile, panel);
      });
    }
  }
}

// --- Entry points of the kernel table, for both kinds of activations ---

ASHLAR_INLINE bool is_int8(const LinearLayout& layout) {
  return layout.shape.activation == ActivationKind::kInt8;
}

int64_t linear_tiles_kernel(const LinearLayout& layout, int64_t tokens) {
  const int64_t widest = is_int8(layout) ? kTileInt8 : kTileF32;
  return (tokens + widest - 1) / widest;
}

int64_t linear_scratch_kernel(const LinearLayout& layout, int64_t tokens) {
  const int64_t widest = is_int8(layout) ? kTileInt8 : kTileF32;
  const int64_t full = tokens / widest, left = tokens % widest;
  int64_t bytes =
      full * (is_int8(layout) ? tile_int8_bytes(layout, widest) : tile_f32_bytes(layout, widest));
  if (left > 0) {
    const int64_t width = tile_width(left, widest);
    bytes += is_int8(layout) ? tile_int8_bytes(layout, width) : tile_f32_bytes(layout, width);
  }
  return bytes;
}

void linear_prepare_kernel(const LinearJob& job, int64_t tile) {
  if (is_int8(*job.layout)) {
    prepare_int8(job, tile);
  } else {
    prepare_f32(job, tile);
  }
}

void linear_run_kernel(const LinearJob& job, int64_t panel_begin, int64_t panel_end,
                       int64_t tile_begin, int64_t tile_end) {
  const LinearLayout& layout = *job.layout;
  if (!is_int8(layout)) {
    with_codes(layout, [&](auto codes) {
      run_f32<decltype(codes)>(job, panel_begin, panel_end, tile_begin, tile_end);
    });
    return;
  }
  const bool has_min = layout.shape.has_min;
  if (layout.shape.weight == WeightKind::kQ4) {
    (has_min ? run_int8<DotRow<true, false>>
             : run_int8<DotRow<true, true>>)(job, panel_begin, panel_end, tile_begin, tile_end);
  } else {
    (has_min ? run_int8<DotRow<false, false>>
             : run_int8<DotRow<false, true>>)(job, panel_begin, panel_end, tile_begin, tile_end);
  }
}

}  // namespace
}  // namespace ashlar
