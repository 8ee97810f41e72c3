#include "kernels/linear.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "kernels/dispatch.h"
#include "kernels/linear_job.h"

namespace ashlar {
namespace {

constexpr int64_t kSegmentF32 = 256;    // DESIGN: fixed blocks of k
constexpr int64_t kSegmentInt8 = 4096;  // 255·127·4096 fits int32

// One task's share: enough work to hide the hand-over, few enough tokens to keep a segment of
// activations in a second-level cache.
constexpr int64_t kPanelsPerTask = 8;
constexpr int64_t kFewTokensPanelStep = 4;  // panels that the few-token kernels take together
constexpr int64_t kFewTokensTaskBytes = 64 << 10;
constexpr int64_t kTilesPerTask = 32;

/// Panels that one task takes so that every thread gets several tasks.
int64_t panels_per_task(const LinearLayout& layout, int64_t tiles, int threads) {
  const int64_t share = ceil_div(layout.panels, 4 * static_cast<int64_t>(threads));
  if (tiles > 1) return std::clamp<int64_t>(share, 1, kPanelsPerTask);
  const int64_t by_bytes = ceil_div(kFewTokensTaskBytes, layout.panel_bytes);
  return round_up(std::min(by_bytes, share), kFewTokensPanelStep);
}

}  // namespace

LinearLayout linear_layout(const LinearShape& shape) {
  const bool quantized = shape.weight == WeightKind::kQ8 || shape.weight == WeightKind::kQ4;
  ASHLAR_CHECK(shape.out >= 1 && shape.in >= 1);
  ASHLAR_CHECK(quantized ? shape.group >= 1 : shape.group == 0 && !shape.has_min);
  ASHLAR_CHECK(quantized || shape.activation == ActivationKind::kF32);
  ASHLAR_CHECK(quantized || !shape.wide_parameters);
  const char* what = "packed linear weights";
  LinearLayout layout;
  layout.shape = shape;
  layout.group = quantized ? std::min(shape.group, shape.in) : shape.in;
  layout.groups = ceil_div(shape.in, layout.group);
  layout.segment = shape.activation == ActivationKind::kInt8 ? kSegmentInt8 : kSegmentF32;
  layout.group_segments = ceil_div(layout.group, layout.segment);
  const int64_t last = shape.in - (layout.groups - 1) * layout.group;
  layout.segments = (layout.groups - 1) * layout.group_segments + ceil_div(last, layout.segment);
  layout.panels = ceil_div(shape.out, kPanel);
  int64_t step = 1, row_bytes = 0;
  switch (shape.weight) {
    case WeightKind::kF32:
      row_bytes = 4 * kPanel;
      break;
    case WeightKind::kF16:
    case WeightKind::kBF16:
      row_bytes = 2 * kPanel;
      break;
    case WeightKind::kQ8:
      step = 4, row_bytes = 4 * kPanel;
      break;
    case WeightKind::kQ4:
      step = 8, row_bytes = 4 * kPanel;
      break;
  }
  layout.group_bytes = checked_mul(ceil_div(layout.group, step), row_bytes, what);
  const int64_t parameters =
      quantized ? checked_mul(layout.groups, parameter_bytes(shape) * kPanel, what) : 0;
  layout.min_offset = parameters;
  layout.code_offset = round_up(parameters * (shape.has_min ? 2 : 1), 64);
  const int64_t codes = checked_mul(layout.groups, layout.group_bytes, what);
  layout.panel_bytes = round_up(checked_add(layout.code_offset, codes, what), 64);
  checked_mul(layout.panels, layout.panel_bytes, what);
  return layout;
}

int64_t linear_packed_bytes(const LinearShape& shape) {
  const LinearLayout layout = linear_layout(shape);
  return layout.panels * layout.panel_bytes;
}

int64_t linear_scratch_bytes(const KernelTable& kernels, const LinearShape& shape, int64_t tokens) {
  return kernels.linear.scratch_bytes(linear_layout(shape), tokens);
}

int64_t linear_scratch_bytes(const LinearShape& shape, int64_t tokens) {
  return linear_scratch_bytes(active_kernels(), shape, tokens);
}

void linear_run(const KernelTable& kernels, const LinearShape& shape, const std::byte* packed,
                const float* bias, const float* x, int64_t x_stride, int64_t tokens, float* y,
                int64_t y_stride, std::byte* scratch, ThreadPool& pool) {
  if (tokens <= 0) return;
  const LinearLayout layout = linear_layout(shape);
  const LinearJob job{&layout, packed, bias, x, x_stride, tokens, y, y_stride, scratch};
  const int64_t tiles = kernels.linear.tiles(layout, tokens);
  pool.parallel_for(tiles, [&](int64_t tile, int) { kernels.linear.prepare(job, tile); });
  const int64_t panels = panels_per_task(layout, tiles, pool.size());
  const int64_t panel_tasks = ceil_div(layout.panels, panels);
  const int64_t tile_tasks = ceil_div(tiles, kTilesPerTask);
  pool.parallel_for(panel_tasks * tile_tasks, [&](int64_t task, int) {
    const int64_t panel = task % panel_tasks * panels;
    const int64_t tile = task / panel_tasks * kTilesPerTask;
    kernels.linear.run(job, panel, std::min(panel + panels, layout.panels), tile,
                       std::min(tile + kTilesPerTask, tiles));
  });
}

void linear_run(const LinearShape& shape, const std::byte* packed, const float* bias,
                const float* x, int64_t x_stride, int64_t tokens, float* y, int64_t y_stride,
                std::byte* scratch, ThreadPool& pool) {
  linear_run(active_kernels(), shape, packed, bias, x, x_stride, tokens, y, y_stride, scratch,
             pool);
}

}  // namespace ashlar
