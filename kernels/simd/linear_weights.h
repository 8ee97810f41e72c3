#pragma once

// Included after one ISA header. How each WeightKind becomes floats in registers.

#include "kernels/linear_job.h"
#include "kernels/simd/elementwise_impl.h"

namespace ashlar {
namespace {

/// One `Raw` holds the weights of kStep consecutive k for 16 outputs; get<j> gives the j-th
/// exactly.
struct CodesF32 {
  using Raw = Vf;
  static constexpr int kStep = 1;
  static constexpr int64_t kRowBytes = 64;
  static ASHLAR_INLINE Raw load(const std::byte* p) {
    return vload(reinterpret_cast<const float*>(p));
  }
  template <int j>
  static ASHLAR_INLINE Vf get(Raw raw) {
    return raw;
  }
};
struct CodesF16 {
  using Raw = Vf;
  static constexpr int kStep = 1;
  static constexpr int64_t kRowBytes = 32;
  static ASHLAR_INLINE Raw load(const std::byte* p) { return vload_half(p); }
  template <int j>
  static ASHLAR_INLINE Vf get(Raw raw) {
    return raw;
  }
};
struct CodesBF16 {
  using Raw = Vf;
  static constexpr int kStep = 1;
  static constexpr int64_t kRowBytes = 32;
  static ASHLAR_INLINE Raw load(const std::byte* p) { return vload_bfloat(p); }
  template <int j>
  static ASHLAR_INLINE Vf get(Raw raw) {
    return raw;
  }
};
template <bool kSigned>
struct CodesQ8 {
  using Raw = Vi;
  static constexpr int kStep = 4;
  static constexpr int64_t kRowBytes = 64;
  static ASHLAR_INLINE Raw load(const std::byte* p) { return iload(p); }
  template <int j>
  static ASHLAR_INLINE Vf get(Raw raw) {
    return vbyte<8 * j, kSigned>(raw);
  }
};
template <bool kSigned>
struct CodesQ4 {
  using Raw = Vi;
  static constexpr int kStep = 8;
  static constexpr int64_t kRowBytes = 64;
  static ASHLAR_INLINE Raw load(const std::byte* p) { return iload(p); }
  template <int j>
  static ASHLAR_INLINE Vf get(Raw raw) {
    return vnibble<8 * (j % 4) + 4 * (j / 4), kSigned>(raw);
  }
};

/// Calls f with the code type of the layout's weights.
template <typename F>
ASHLAR_INLINE void with_codes(const LinearLayout& layout, F f) {
  const bool has_min = layout.shape.has_min;
  switch (layout.shape.weight) {
    case WeightKind::kF32:
      return f(CodesF32{});
    case WeightKind::kF16:
      return f(CodesF16{});
    case WeightKind::kBF16:
      return f(CodesBF16{});
    case WeightKind::kQ8:
      return has_min ? f(CodesQ8<false>{}) : f(CodesQ8<true>{});
    case WeightKind::kQ4:
      return has_min ? f(CodesQ4<false>{}) : f(CodesQ4<true>{});
  }
}

template <int N>
struct Width {
  static constexpr int value = N;
};

/// Tile widths of every ISA; those beyond its kTileF32 / kTileInt8 are not compiled.
ASHLAR_INLINE int64_t tile_width(int64_t tokens, int64_t widest) {
  if (tokens >= widest) return widest;
  const int64_t widths[] = {1, 2, 4, 6, 8, 12};
  for (const int64_t w : widths) {
    if (tokens <= w) return w < widest ? w : widest;
  }
  return widest;
}
template <int kWidest, typename F>
ASHLAR_INLINE void with_width(int64_t width, F f) {
  if (width == 1) return f(Width<1>{});
  if (width == 2) return f(Width<2>{});
  if constexpr (kWidest >= 4) {
    if (width == 4) return f(Width<4>{});
  }
  if constexpr (kWidest >= 6) {
    if (width == 6) return f(Width<6>{});
  }
  if constexpr (kWidest >= 8) {
    if (width == 8) return f(Width<8>{});
  }
  if constexpr (kWidest >= 12) {
    if (width == 12) return f(Width<12>{});
  }
}

/// A run of k inside one group that is summed from zero before it joins the output.
struct Segment {
  int64_t index;  ///< over the row
  int64_t group;
  int64_t k;         ///< first k
  int64_t in_group;  ///< first k, from the start of the group
  int64_t n;
  bool last;
};

template <typename F>
ASHLAR_INLINE void for_segments(const LinearLayout& layout, F f) {
  Segment s{0, 0, 0, 0, 0, false};
  for (s.group = 0; s.group < layout.groups; ++s.group) {
    const int64_t start = s.group * layout.group;
    const int64_t rest = layout.shape.in - start;
    const int64_t length = rest < layout.group ? rest : layout.group;
    for (s.in_group = 0; s.in_group < length; s.in_group += layout.segment) {
      s.k = start + s.in_group;
      const int64_t left = length - s.in_group;
      s.n = left < layout.segment ? left : layout.segment;
      s.last = s.k + s.n == layout.shape.in;
      f(s);
      ++s.index;
    }
  }
}

/// Outputs of a panel that exist.
ASHLAR_INLINE int64_t panel_outputs(const LinearLayout& layout, int64_t panel) {
  const int64_t left = layout.shape.out - panel * kPanel;
  return left < kPanel ? left : kPanel;
}
ASHLAR_INLINE bool is_quantized(const LinearLayout& layout) {
  return layout.shape.weight == WeightKind::kQ8 || layout.shape.weight == WeightKind::kQ4;
}
ASHLAR_INLINE Vf panel_parameter(const LinearLayout& layout, const std::byte* first,
                                 int64_t group) {
  if (!layout.shape.wide_parameters) return vload_half(first + group * 2 * kPanel);
  return vload(reinterpret_cast<const float*>(first + group * 4 * kPanel));
}
ASHLAR_INLINE Vf panel_scale(const LinearLayout& layout, const std::byte* panel, int64_t group) {
  return panel_parameter(layout, panel, group);
}
ASHLAR_INLINE Vf panel_min(const LinearLayout& layout, const std::byte* panel, int64_t group) {
  return panel_parameter(layout, panel + layout.min_offset, group);
}
ASHLAR_INLINE Vf panel_bias(const LinearJob& job, int64_t panel) {
  return vload_span(job.bias + panel * kPanel, panel_outputs(*job.layout, panel));
}

}  // namespace
}  // namespace ashlar
