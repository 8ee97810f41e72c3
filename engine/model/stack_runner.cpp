// tensor shape suffixes: R rows of all items, D d_model, H query heads, K KV heads, E head_dim, F
// d_ff

#include "engine/model/stack_runner.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "models/spec/rope.h"

namespace ashlar {
namespace {

float* fit(std::vector<float>& buffer, int64_t floats) {
  if (static_cast<int64_t>(buffer.size()) < floats) buffer.resize(static_cast<size_t>(floats));
  return buffer.data();
}

// 64-byte aligned start of a byte buffer of at least `bytes`.
std::byte* fit_aligned(std::vector<std::byte>& buffer, int64_t bytes) {
  if (static_cast<int64_t>(buffer.size()) < bytes + 64) {
    buffer.resize(static_cast<size_t>(bytes + 64));
  }
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return buffer.data() + (64 - address % 64) % 64;
}

// One step of one layer: what the phases below share.
struct LayerStep {
  const LayerSpec& spec;
  const LayerWeights& weights;
  const KvGroup& group;
  int64_t reader;  // number of this layer among the group's readers
  std::span<const StackItem> items;
  int64_t rows;
  int64_t d_model;
  Workspace& work;
  ThreadPool& pool;

  const AttentionSpec& a() const { return spec.attention; }
};

// RoPE, then the online rotation of R3, on `heads` vectors of every row.
void turn(const LayerStep& step, float* x, int64_t heads) {
  const int64_t dim = step.a().head_dim, turned = step.a().rope.dim, half = turned / 2;
  const HadamardPlan& plan = step.weights.keys_plan;
  float* scratch = step.work.rotate.data();
  step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
    float* row = x + r * heads * dim;
    rope_apply(row, heads, dim, turned, step.work.rope_cos.data() + r * half,
               step.work.rope_sin.data() + r * half);
    if (plan.n == 0) return;
    for (int64_t h = 0; h < heads; ++h) {
      hadamard_apply(plan, row + h * dim, scratch + thread * dim);
    }
  });
}

void fill_rope(const LayerStep& step) {
  const int64_t half = step.a().rope.dim / 2;
  const RopeFrequencies rope = rope_frequencies(step.a().rope);
  float* cosines = fit(step.work.rope_cos, step.rows * half);
  float* sines = fit(step.work.rope_sin, step.rows * half);
  for (const StackItem& item : step.items) {
    for (int64_t r = 0; r < item.rows; ++r) {
      rope_angles(item.position + r, rope.frequency.data(), half, rope.magnitude,
                  cosines + (item.row + r) * half, sines + (item.row + r) * half);
    }
  }
}

void project_kv(const LayerStep& step, const float* x_RD, const float* norm_RD) {
  const AttentionSpec& a = step.a();
  const int64_t width = a.kv_heads * a.head_dim;
  const float* input = norm_RD;
  if (step.weights.kv_norm != nullptr) {
    float* own = fit(step.work.out, step.rows * step.d_model);
    norm_rows(x_RD, step.weights.kv_norm, step.spec.norm, step.rows, step.d_model, own, step.pool);
    input = own;
  }
  float* key_RKE = fit(step.work.key, step.rows * width);
  float* value_RKE = fit(step.work.value, step.rows * width);
  apply_linear(step.weights.key, input, step.rows, key_RKE, step.work, step.pool);
  apply_linear(step.weights.value, input, step.rows, value_RKE, step.work, step.pool);
  turn(step, key_RKE, a.kv_heads);
  for (const StackItem& item : step.items) {
    item.kv->append(step.group.id, key_RKE + item.row * width, value_RKE + item.row * width,
                    item.rows);
  }
}

struct AttentionJob {
  const StackItem* item;
  int64_t head;
  QueryTile tile;
};

// Every (item, KV head) is one chain when scores are collected, since its tiles add to the same
// buffer in order; otherwise every tile is a job of its own.
void attend(const LayerStep& step, const float* query_RHE, float* out_RHE) {
  const AttentionSpec& a = step.a();
  const int64_t group_size = a.heads / a.kv_heads, width = a.heads * a.head_dim;
  std::vector<std::vector<AttentionJob>> chains;
  std::vector<QueryTile> tiles;
  int64_t slots = 0, tile_rows = 0;
  for (const StackItem& item : step.items) {
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      item.kv->query_tiles(step.group.id, head, tiles);
      for (size_t t = 0; t < tiles.size(); ++t) {
        if (t == 0 || !item.kv->scored()) chains.emplace_back();
        chains.back().push_back({&item, head, tiles[t]});
        slots = std::max(slots, tiles[t].encoded + tiles[t].raw_visible + tiles[t].rows);
        tile_rows = std::max(tile_rows, tiles[t].rows);
      }
    }
  }
  const int64_t scratch_bytes =
      attention_scratch_bytes(tile_rows, group_size, slots, a.head_dim, a.head_dim);
  auto& scratch = step.work.attention_scratch;
  scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : scratch) fit_aligned(buffer, scratch_bytes);
  step.pool.parallel_for(static_cast<int64_t>(chains.size()), [&](int64_t c, int thread) {
    for (const AttentionJob& job : chains[static_cast<size_t>(c)]) {
      const KvHeadView view = job.item->kv->view(step.group.id, job.head, job.tile);
      const int64_t offset =
          (job.item->row + job.tile.row) * width + job.head * group_size * a.head_dim;
      AttentionTask task;
      task.q = query_RHE + offset;
      task.q_stride = task.out_stride = width;
      task.rows = job.tile.rows;
      task.group = group_size;
      task.key_dim = task.value_dim = a.head_dim;
      task.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim)));
      task.raw_visible = job.tile.raw_visible;
      task.out = out_RHE + offset;
      task.scores = job.item->kv->scores(step.group.id, job.head, step.reader, job.tile);
      attention_run(view, task, fit_aligned(scratch[static_cast<size_t>(thread)], scratch_bytes));
    }
  });
}

void attention_phase(const LayerStep& step, bool owner, float* x_RD) {
  const AttentionSpec& a = step.a();
  const int64_t width = a.heads * a.head_dim;
  float* norm_RD = fit(step.work.norm, step.rows * step.d_model);
  norm_rows(x_RD, step.weights.attention_norm, step.spec.norm, step.rows, step.d_model, norm_RD,
            step.pool);
  float* query_RHE = fit(step.work.query, step.rows * width);
  apply_linear(step.weights.query, norm_RD, step.rows, query_RHE, step.work, step.pool);
  fill_rope(step);
  turn(step, query_RHE, a.heads);
  if (owner) project_kv(step, x_RD, norm_RD);
  float* out_RHE = fit(step.work.attention, step.rows * width);
  attend(step, query_RHE, out_RHE);
  const HadamardPlan& plan = step.weights.heads_plan;
  if (plan.n != 0) {
    step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
      hadamard_apply_strided(plan, out_RHE + r * width, a.head_dim,
                             step.work.rotate.data() + thread * width);
    });
  }
  float* delta_RD = fit(step.work.out, step.rows * step.d_model);
  apply_linear(step.weights.attention_out, out_RHE, step.rows, delta_RD, step.work, step.pool);
  add_inplace(x_RD, delta_RD, step.rows * step.d_model);
}

void ffn_phase(const LayerStep& step, float* x_RD) {
  const int64_t d_ff = step.spec.ffn.d_ff;
  float* norm_RD = fit(step.work.norm, step.rows * step.d_model);
  norm_rows(x_RD, step.weights.ffn_norm, step.spec.norm, step.rows, step.d_model, norm_RD,
            step.pool);
  float* gate_RF = fit(step.work.gate, step.rows * d_ff);
  float* up_RF = fit(step.work.up, step.rows * d_ff);
  apply_linear(step.weights.gate, norm_RD, step.rows, gate_RF, step.work, step.pool);
  apply_linear(step.weights.up, norm_RD, step.rows, up_RF, step.work, step.pool);
  const HadamardPlan& plan = step.weights.down_plan;
  step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
    float* row = gate_RF + r * d_ff;
    swiglu(row, up_RF + r * d_ff, d_ff, row);
    if (plan.n != 0) hadamard_apply(plan, row, step.work.rotate.data() + thread * d_ff);
  });
  float* delta_RD = fit(step.work.out, step.rows * step.d_model);
  apply_linear(step.weights.down, gate_RF, step.rows, delta_RD, step.work, step.pool);
  add_inplace(x_RD, delta_RD, step.rows * step.d_model);
}

}  // namespace

void apply_linear(const Linear& linear, const float* x, int64_t rows, float* y, Workspace& work,
                  ThreadPool& pool) {
  std::byte* scratch = fit_aligned(work.linear_scratch, linear_scratch_bytes(linear.shape, rows));
  linear_run(linear.shape, linear.packed, linear.bias, x, linear.shape.in, rows, y,
             linear.shape.out, scratch, pool);
}

void norm_rows(const float* x, const float* gain, const NormSpec& norm, int64_t rows, int64_t width,
               float* y, ThreadPool& pool) {
  pool.parallel_for(
      rows, [&](int64_t r, int) { rms_norm(x + r * width, gain, norm.eps, width, y + r * width); });
}

void run_stack(const StackSpec& stack, const StackWeights& weights, std::span<const KvGroup> groups,
               std::span<const int64_t> group_of_layer, std::span<const StackItem> items, float* x,
               int64_t rows, Workspace& work, ThreadPool& pool, const CloseGroup& close) {
  int64_t widest = 0;
  for (const LayerSpec& layer : stack.layers) {
    widest = std::max({widest, layer.ffn.d_ff, layer.attention.heads * layer.attention.head_dim});
  }
  fit(work.rotate, widest * pool.size());
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    const KvGroup& group = groups[static_cast<size_t>(group_of_layer[l])];
    const auto reader = std::ranges::find(group.readers, static_cast<int64_t>(l));
    const LayerStep step{stack.layers[l],
                         weights.layers[l],
                         group,
                         reader - group.readers.begin(),
                         items,
                         rows,
                         stack.d_model,
                         work,
                         pool};
    attention_phase(step, group.owner == static_cast<int64_t>(l), x);
    if (group.readers.back() == static_cast<int64_t>(l)) close(group.id);
    ffn_phase(step, x);
  }
}

}  // namespace ashlar
