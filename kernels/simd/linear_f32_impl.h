#pragma once

// Included after one ISA header. Linear maps with fp32
// activations. For every output: per segment of k a chain of FMAs from zero in ascending k, then
//   floats:     y ← y + part
//   quantized:  y ← fma(scale, part, y), then y ← fma(min, Σx, y) if there is a minimum
// in ascending segments, then y ← y + bias. Every path below does exactly this, so the number of
// tokens, the tile and the thread never show.

#include "kernels/simd/linear_weights.h"

namespace ashlar {
namespace {

/// Activations of one tile in scratch: x[k·width + t], then Σx per segment as
/// sums[segment·width+t].
struct TileF32 {
  const float* x;
  const float* sums;
  int64_t width;
  int64_t first;   ///< token
  int64_t tokens;  ///< real ones, ≤ width
};

ASHLAR_INLINE int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
ASHLAR_INLINE int64_t tile_x_bytes(const LinearLayout& layout, int64_t width) {
  return width == 1 ? 0 : align64(layout.shape.in * width * 4);
}
ASHLAR_INLINE int64_t tile_f32_bytes(const LinearLayout& layout, int64_t width) {
  const int64_t sums = layout.shape.has_min ? align64(layout.segments * width * 4) : 0;
  return tile_x_bytes(layout, width) + sums;
}

TileF32 tile_f32(const LinearJob& job, int64_t tile) {
  const LinearLayout& layout = *job.layout;
  TileF32 t;
  t.first = tile * kTileF32;
  const int64_t left = job.tokens - t.first;
  t.width = tile_width(left, kTileF32);
  t.tokens = left < t.width ? left : t.width;
  const std::byte* base = job.scratch + tile * tile_f32_bytes(layout, kTileF32);
  t.x = t.width == 1 ? job.x + t.first * job.x_stride : reinterpret_cast<const float*>(base);
  t.sums = reinterpret_cast<const float*>(base + tile_x_bytes(layout, t.width));
  return t;
}

/// Σ x[0…n) in 16 lanes and a tree.
float lane_sum(const float* x, int64_t n) {
  Vf a = vzero();
  for_spans(n, [&](int64_t i, int64_t m) { a = vadd(a, vload_span(x + i, m)); });
  return vsum(a);
}

void prepare_f32(const LinearJob& job, int64_t tile) {
  const LinearLayout& layout = *job.layout;
  const TileF32 t = tile_f32(job, tile);
  const int64_t in = layout.shape.in;
  for (int64_t i = 0; i < t.width; ++i) {
    const float* row = job.x + (t.first + i) * job.x_stride;
    const bool real = i < t.tokens;
    if (t.width > 1) {
      float* x = const_cast<float*>(t.x) + i;
      for (int64_t k = 0; k < in; ++k) x[k * t.width] = real ? row[k] : 0.0f;
    }
    if (!layout.shape.has_min) continue;
    float* sums = const_cast<float*>(t.sums) + i;
    for_segments(layout, [&](const Segment& s) {
      sums[s.index * t.width] = real ? lane_sum(row + s.k, s.n) : 0.0f;
    });
  }
}

/// part[p][t] ← fma(x, w, part[p][t]) for the k-th weights j < limit of one raw row per panel.
template <class C, int T, int P, int J>
ASHLAR_INLINE void raw_step(const typename C::Raw (&raw)[P], const float* x, int64_t limit,
                            Vf (&part)[P][T]) {
  if constexpr (J < C::kStep) {
    if (J >= limit) return;
    Vf w[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) w[p] = C::template get<J>(raw[p]);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const Vf b = vset(x[J * T + t]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) part[p][t] = vfma(b, w[p], part[p][t]);
    }
    raw_step<C, T, P, J + 1>(raw, x, limit, part);
  }
}

/// The segment's sums for P panels and T tokens, weights converted in registers.
template <class C, int T, int P>
ASHLAR_INLINE void segment_parts(const std::byte* const (&w)[P], const float* x, int64_t n,
                                 Vf (&part)[P][T]) {
  int64_t k = 0;
  typename C::Raw raw[P];
  for (; k + C::kStep <= n; k += C::kStep) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) raw[p] = C::load(w[p] + k / C::kStep * C::kRowBytes);
    raw_step<C, T, P, 0>(raw, x + k * T, C::kStep, part);
  }
  if (C::kStep > 1 && k < n) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) raw[p] = C::load(w[p] + k / C::kStep * C::kRowBytes);
    raw_step<C, T, P, 0>(raw, x + k * T, n - k, part);
  }
}

ASHLAR_INLINE const std::byte* segment_codes(const LinearLayout& layout, const std::byte* panel,
                                             const Segment& s, int64_t step, int64_t row_bytes) {
  return panel + layout.code_offset + s.group * layout.group_bytes + s.in_group / step * row_bytes;
}

/// Few tokens: P panels at once keep P·T chains in flight and stream P runs of memory.
template <class C, int T, int P>
void few_tokens(const LinearJob& job, const TileF32& tile, int64_t panel) {
  const LinearLayout& layout = *job.layout;
  const bool quantized = is_quantized(layout);
  Vf acc[P][T];
  const std::byte* base[P];
  for (int p = 0; p < P; ++p) {
    base[p] = job.packed + (panel + p) * layout.panel_bytes;
    for (int t = 0; t < T; ++t) acc[p][t] = vzero();
  }
  for_segments(layout, [&](const Segment& s) {
    Vf part[P][T];
    const std::byte* w[P];
    for (int p = 0; p < P; ++p) {
      w[p] = segment_codes(layout, base[p], s, C::kStep, C::kRowBytes);
      for (int t = 0; t < T; ++t) part[p][t] = vzero();
    }
    segment_parts<C, T, P>(w, tile.x + s.k * T, s.n, part);
    for (int p = 0; p < P; ++p) {
      if (!quantized) {
        for (int t = 0; t < T; ++t) acc[p][t] = vadd(acc[p][t], part[p][t]);
        continue;
      }
      const Vf scale = panel_scale(layout, base[p], s.group);
      for (int t = 0; t < T; ++t) acc[p][t] = vfma(scale, part[p][t], acc[p][t]);
      if (!layout.shape.has_min) continue;
      const Vf min = panel_min(layout, base[p], s.group);
      for (int t = 0; t < T; ++t) {
        acc[p][t] = vfma(min, vset(tile.sums[s.index * T + t]), acc[p][t]);
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

/// A panel's share of one segment as the tile kernel wants it.
struct PanelSegment {
  const float* w;  ///< [n][16]
  int64_t n;
  Vf scale, min, bias;
  bool quantized, has_min, has_bias;
  bool first, last;
  int64_t outputs;
};

/// One register tile: T tokens × 16 outputs over one segment, accumulated in y.
template <int T>
ASHLAR_INLINE void tile_segment(const PanelSegment& panel, const float* x, const float* sums,
                                int64_t tokens, float* y, int64_t y_stride) {
  Vf part[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) part[t] = vzero();
  const float* w = panel.w;
  for (int64_t k = 0; k < panel.n; ++k) {
    const Vf v = vload(w + k * kPanel);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) part[t] = vfma(vset(x[k * T + t]), v, part[t]);
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    if (t >= tokens) break;
    float* out = y + t * y_stride;
    Vf acc = panel.first ? vzero() : vload_span(out, panel.outputs);
    acc = panel.quantized ? vfma(panel.scale, part[t], acc) : vadd(acc, part[t]);
    if (panel.has_min) acc = vfma(panel.min, vset(sums[t]), acc);
    if (panel.last && panel.has_bias) acc = vadd(acc, panel.bias);
    vstore_span(out, panel.outputs, acc);
  }
}

/// Longest segment as floats: 16 KiB, half of a first-level cache.
constexpr int64_t kSegmentF32 = 256;

/// The weights of one segment as [n][16] floats; float weights are used where they lie.
template <class C>
ASHLAR_INLINE const float* segment_floats(const std::byte* w, int64_t n, float* buffer) {
  if constexpr (__is_same(C, CodesF32)) return reinterpret_cast<const float*>(w);
  typename C::Raw raw[1];
  for (int64_t k = 0; k < n; k += C::kStep) {
    raw[0] = C::load(w + k / C::kStep * C::kRowBytes);
    float* out = buffer + k * kPanel;
    vstore(out, C::template get<0>(raw[0]));
    if constexpr (C::kStep >= 4) {
      vstore(out + 1 * kPanel, C::template get<1>(raw[0]));
      vstore(out + 2 * kPanel, C::template get<2>(raw[0]));
      vstore(out + 3 * kPanel, C::template get<3>(raw[0]));
    }
    if constexpr (C::kStep >= 8) {
      vstore(out + 4 * kPanel, C::template get<4>(raw[0]));
      vstore(out + 5 * kPanel, C::template get<5>(raw[0]));
      vstore(out + 6 * kPanel, C::template get<6>(raw[0]));
      vstore(out + 7 * kPanel, C::template get<7>(raw[0]));
    }
  }
  return buffer;
}

/// Many tokens: each segment of a panel is converted once and used by every tile. Segments are the
/// outer loop so that the tokens' share of one segment stays in the second-level cache.
template <class C>
void many_tokens(const LinearJob& job, int64_t panel_begin, int64_t panel_end, int64_t tile_begin,
                 int64_t tile_end) {
  const LinearLayout& layout = *job.layout;
  alignas(64) float buffer[(kSegmentF32 + 8) * kPanel];
  PanelSegment p{};
  p.quantized = is_quantized(layout);
  p.has_min = layout.shape.has_min;
  p.has_bias = job.bias != nullptr;
  for_segments(layout, [&](const Segment& s) {
    p.n = s.n;
    p.first = s.index == 0;
    p.last = s.last;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const std::byte* base = job.packed + panel * layout.panel_bytes;
      p.w = segment_floats<C>(segment_codes(layout, base, s, C::kStep, C::kRowBytes), s.n, buffer);
      p.outputs = panel_outputs(layout, panel);
      if (p.quantized) p.scale = panel_scale(layout, base, s.group);
      if (p.has_min) p.min = panel_min(layout, base, s.group);
      if (p.has_bias) p.bias = panel_bias(job, panel);
      for (int64_t i = tile_begin; i < tile_end; ++i) {
        const TileF32 tile = tile_f32(job, i);
        float* y = job.y + tile.first * job.y_stride + panel * kPanel;
        with_width<kTileF32>(tile.width, [&](auto width) {
          constexpr int T = decltype(width)::value;
          tile_segment<T>(p, tile.x + s.k * T, tile.sums + s.index * T, tile.tokens, y,
                          job.y_stride);
        });
      }
    }
  });
}

/// Widest tile whose weights are converted in registers: with more tokens it pays to convert once
/// into a buffer.
constexpr int kFewTokens = kTileF32 < 4 ? kTileF32 : 4;

template <class C>
void run_f32(const LinearJob& job, int64_t panel_begin, int64_t panel_end, int64_t tile_begin,
             int64_t tile_end) {
  const TileF32 tile = tile_f32(job, tile_begin);
  if (tile_end - tile_begin > 1 || tile.width > kFewTokens) {
    many_tokens<C>(job, panel_begin, panel_end, tile_begin, tile_end);
    return;
  }
  with_width<kFewTokens>(tile.width, [&](auto width) {
    constexpr int T = decltype(width)::value;
    constexpr int P = T == 1 ? 4 : T == 2 ? 2 : 1;
    int64_t panel = panel_begin;
    for (; panel + P <= panel_end; panel += P) few_tokens<C, T, P>(job, tile, panel);
    if constexpr (P > 1) {
      for (; panel < panel_end; ++panel) few_tokens<C, T, 1>(job, tile, panel);
    }
  });
}

}  // namespace
}  // namespace ashlar
