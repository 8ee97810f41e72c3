#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace ashlar {

/// Outputs per panel of packed weights: one virtual SIMD register of every ISA.
inline constexpr int64_t kPanel = 16;

/// Bytes of one scale or minimum.
inline int64_t parameter_bytes(const LinearShape& shape) { return shape.wide_parameters ? 4 : 2; }

/// Where everything lies in packed weights and scratch. The packed form is the same for every ISA:
///
/// - Outputs are cut into panels of 16; a panel is one run of memory of `panel_bytes`.
/// - kF32/kF16/kBF16: element (k, o) at k·16 + o.
/// - kQ8: per group and per four k one row of 16 × 4 bytes: lane o holds k…k+3, low byte first.
/// - kQ4: per group and per eight k one row of 16 × 4 bytes: byte b of lane o holds k+b in its low
///   and k+4+b in its high nibble. Groups are padded to whole rows with zero codes.
/// - kQ8/kQ4 panels begin with their scales: [groups][16] fp16 (fp32 if wide_parameters), then the
///   minima likewise.
///
/// The k axis is reduced in segments: a group (the whole row for floats) cut every `segment` k.
struct LinearLayout {
  LinearShape shape;
  int64_t group = 0;           ///< shape.group, or `in` for float weights
  int64_t groups = 0;          ///< ceil(in / group)
  int64_t segment = 0;         ///< longest segment
  int64_t group_segments = 0;  ///< segments of a full group
  int64_t segments = 0;        ///< over the row
  int64_t panels = 0;
  int64_t panel_bytes = 0;
  int64_t min_offset = 0;   ///< of the minima in a panel
  int64_t code_offset = 0;  ///< of the codes in a panel
  int64_t group_bytes = 0;  ///< codes of one full group in a panel
};

/// Computes the layout; programmer errors in `shape` throw Error(kInternal), sizes that overflow
/// Error(kData).
LinearLayout linear_layout(const LinearShape& shape);

/// One linear_run as the ISA kernels see it. Tokens are cut into tiles of `tile` and a last one of
/// the smallest width that holds the rest; missing tokens are computed as zeros and not stored.
struct LinearJob {
  const LinearLayout* layout = nullptr;
  const std::byte* packed = nullptr;
  const float* bias = nullptr;
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t tokens = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;
};

/// The linear kernels of one ISA.
struct LinearKernels {
  /// Bytes of prepared activations for `tokens` tokens.
  int64_t (*scratch_bytes)(const LinearLayout& layout, int64_t tokens);
  /// Tiles that `tokens` tokens are cut into.
  int64_t (*tiles)(const LinearLayout& layout, int64_t tokens);
  /// Interleaves, sums or quantizes the tokens of one tile into its part of the scratch.
  void (*prepare)(const LinearJob& job, int64_t tile);
  /// Computes all outputs of panels [panel_begin, panel_end) for tiles [tile_begin, tile_end).
  void (*run)(const LinearJob& job, int64_t panel_begin, int64_t panel_end, int64_t tile_begin,
              int64_t tile_end);
};

}  // namespace ashlar
