#include "engine/model/stack_runner.h"

#include <algorithm>

#include "core/base/error.h"
#include "engine/model/layer_step.h"
#include "kernels/elementwise.h"

namespace ashlar {
namespace {

// Cosines and sines of every row's position.
void fill_rope(const LayerStep& step) {
  const int64_t half = step.a().rope.dim / 2;
  const RopeFrequencies& rope = step.weights.rope;
  float* cosines = fit(step.work.rope_cos, step.rows * half);
  float* sines = fit(step.work.rope_sin, step.rows * half);
  for (const StackItem& item : step.items) {
    for (int64_t r = 0; r < item.rows; ++r) {
      rope_angles(item.position + r, rope.frequency.data(), half, rope.magnitude,
                  cosines + (item.row + r) * half, sines + (item.row + r) * half);
    }
  }
}

// x += FFN(input).
void feed_forward(const LayerStep& step, const float* input_RD, float* x_RD) {
  const FfnSpec& ffn = step.spec.ffn;
  const int64_t d_ff = ffn.d_ff;
  float* up_RF = fit(step.work.up, step.rows * d_ff);
  float* inner_RF = up_RF;
  if (ffn.gated()) {
    inner_RF = fit(step.work.gate, step.rows * d_ff);
    apply_linear(step.weights.gate, input_RD, step.rows, inner_RF, step.work, step.pool);
  }
  apply_linear(step.weights.up, input_RD, step.rows, up_RF, step.work, step.pool);
  const HadamardPlan& plan = step.weights.down_plan;
  step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
    float* row = inner_RF + r * d_ff;
    switch (ffn.kind) {
      case FfnKind::kSwiGlu:
        swiglu(row, up_RF + r * d_ff, d_ff, row);
        break;
      case FfnKind::kGelu:
        gelu(row, d_ff, row);
        break;
      case FfnKind::kRelu2:
        relu2(row, d_ff, row);
        break;
    }
    if (plan.n != 0) hadamard_apply(plan, row, step.work.rotate.data() + thread * d_ff);
  });
  float* delta_RD = fit(step.work.out, step.rows * step.d_model);
  apply_linear(step.weights.down, inner_RF, step.rows, delta_RD, step.work, step.pool);
  add_inplace(x_RD, delta_RD, step.rows * step.d_model);
}

// The residual forms; `closed` runs once attention has read the cache.
template <typename Closed>
void run_layer(const LayerStep& step, float* x_RD, const Closed& closed) {
  const NormSpec& norm = step.spec.norm;
  const LayerWeights& w = step.weights;
  const auto normed = [&](const float* from_RD, const NormWeights& weights, float* to_RD) {
    norm_rows(from_RD, weights, norm, step.rows, step.d_model, to_RD, step.pool);
    return to_RD;
  };
  if (step.spec.residual == ResidualKind::kPost) {
    self_attention(step, x_RD, x_RD, x_RD);
    closed();
    normed(x_RD, w.attention_norm, x_RD);
    feed_forward(step, x_RD, x_RD);
    normed(x_RD, w.ffn_norm, x_RD);
    return;
  }
  const float* source_RD = x_RD;
  if (step.spec.residual == ResidualKind::kParallel) {
    float* before_RD = fit(step.work.before, step.rows * step.d_model);
    std::copy_n(x_RD, step.rows * step.d_model, before_RD);
    source_RD = before_RD;
  }
  float* norm_RD = fit(step.work.norm, step.rows * step.d_model);
  self_attention(step, source_RD, normed(source_RD, w.attention_norm, norm_RD), x_RD);
  closed();
  if (step.cross != nullptr) {
    cross_attention(step, normed(source_RD, w.cross_norm, norm_RD), x_RD);
  }
  feed_forward(step, normed(source_RD, w.ffn_norm, norm_RD), x_RD);
}

}  // namespace

float* fit(std::vector<float>& buffer, int64_t floats) {
  if (static_cast<int64_t>(buffer.size()) < floats) buffer.resize(static_cast<size_t>(floats));
  return buffer.data();
}

void apply_linear(const Linear& linear, const float* x, int64_t rows, float* y, Workspace& work,
                  ThreadPool& pool) {
  std::byte* scratch = fit_aligned(work.linear_scratch, linear_scratch_bytes(linear.shape, rows));
  linear_run(linear.shape, linear.packed, linear.bias, x, linear.shape.in, rows, y,
             linear.shape.out, scratch, pool);
}

void norm_rows(const float* x, const NormWeights& weights, const NormSpec& norm, int64_t rows,
               int64_t width, float* y, ThreadPool& pool) {
  pool.parallel_for(rows, [&](int64_t r, int) {
    if (norm.kind == NormKind::kLayerNorm) {
      layer_norm(x + r * width, weights.gain, weights.bias, norm.eps, width, y + r * width);
    } else {
      rms_norm(x + r * width, weights.gain, norm.eps, width, y + r * width);
    }
  });
}

void run_stack(const StackModel& stack, std::span<const StackItem> items, float* x, int64_t rows,
               Workspace& work, ThreadPool& pool, const CloseGroup& close) {
  const std::vector<LayerSpec>& layers = stack.spec.layers;
  int64_t widest = 0;
  for (const LayerSpec& layer : layers) {
    const AttentionSpec& a = layer.attention;
    widest = std::max({widest, layer.ffn.d_ff, a.heads * a.value_dim(), a.head_dim});
  }
  fit(work.rotate, widest * pool.size());
  const LayerSpec* filled = nullptr;  // whose RoPE the step's cosines and sines are
  for (size_t l = 0; l < layers.size(); ++l) {
    const KvGroup& group = stack.groups[static_cast<size_t>(stack.group[l])];
    const auto index = static_cast<int64_t>(l);
    const auto reader = std::ranges::find(group.readers, index);
    const LayerStep step{
        .spec = layers[l],
        .weights = stack.weights.layers[l],
        .owner = stack.weights.layers[static_cast<size_t>(group.owner)],
        .group = group,
        .cross = stack.cross_group.empty()
                     ? nullptr
                     : &stack.groups[static_cast<size_t>(stack.cross_group[l])],
        .reader = reader - group.readers.begin(),
        .owns = group.owner == index,
        .bidirectional = stack.spec.role == StackRole::kEncoder,
        .items = items,
        .rows = rows,
        .d_model = stack.spec.d_model,
        .work = work,
        .pool = pool,
        .observer = stack.observer,
    };
    if (filled == nullptr || !(filled->attention.rope == step.a().rope)) fill_rope(step);
    filled = &layers[l];
    run_layer(step, x, [&] {
      if (group.readers.back() == index) close(group.id);
    });
  }
}

}  // namespace ashlar
