// Attention of one layer: grouped heads, latents (arXiv 2405.04434 §2.1) and the token decoder's
// cross-attention. Latents are read absorbed: with k_j = W_uk·c_j and v_j = W_uv·c_j per head,
// q·k_j = (W_ukᵀ·q)·c_j and Σ p_j·v_j = W_uv·(Σ p_j·c_j), so attention runs over the cached rows
// [c_j; RoPE(shared key)] as one KV head that all query heads share.

#include <algorithm>
#include <cmath>

#include "engine/model/layer_step.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace ashlar {
namespace {

// The order of a vector's changes: norm of each head, RoPE, online rotation of R3.
struct HeadChange {
  int64_t heads = 0;
  int64_t width = 0;            // floats of a head
  int64_t rope_offset = 0;      // first turned dimension of a head
  const float* norm = nullptr;  // gain [width] or null
};

void change_heads(const LayerStep& step, float* x, const HeadChange& change) {
  const int64_t turned = step.a().rope.dim, half = turned / 2, width = change.width;
  const HadamardPlan& plan = step.weights.keys_plan;
  float* scratch = step.work.rotate.data();
  step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
    float* row = x + r * change.heads * width;
    if (change.norm != nullptr) {
      for (int64_t h = 0; h < change.heads; ++h) {
        float* head = row + h * width;
        rms_norm(head, change.norm, step.spec.norm.eps, width, head);
      }
    }
    rope_apply(row + change.rope_offset, change.heads, width, turned,
               step.work.rope_cos.data() + r * half, step.work.rope_sin.data() + r * half);
    if (plan.n == 0) return;
    for (int64_t h = 0; h < change.heads; ++h) {
      hadamard_apply(plan, row + h * width, scratch + thread * width);
    }
  });
}

// One attention over a cached group for all rows of a step.
struct Attend {
  const KvGroup& group;
  int64_t reader = 0;
  int64_t heads = 0;             // query heads
  const float* query = nullptr;  // [R, heads, key_dim]
  float* out = nullptr;          // [R, heads, value_dim]
  float scale = 0;
  const float* sinks = nullptr;  // [heads] or null
  bool full = false;             // every row sees every cached row
};

// Lists the jobs of all items and heads. Every (item, KV head) is one chain when scores are
// collected, since its tiles add to the same buffer in order; otherwise every tile is a chain.
// Returns the scratch that the largest job needs.
int64_t plan_jobs(const LayerStep& step, const Attend& call) {
  const KvGroup& group = call.group;
  std::vector<AttentionJob>& jobs = step.work.jobs;
  std::vector<size_t>& chains = step.work.chains;
  std::vector<QueryTile>& tiles = step.work.tiles;
  jobs.clear();
  chains.clear();
  int64_t slots = 0, tile_rows = 0;
  bool collects = false;
  for (const StackItem& item : step.items) {
    const bool chained = item.kv->scored(group.id);
    collects = collects || chained;
    for (int64_t head = 0; head < group.heads; ++head) {
      if (call.full) {
        item.kv->full_tiles(group.id, item.rows, tiles);
      } else {
        item.kv->query_tiles(group.id, head, tiles);
      }
      for (size_t t = 0; t < tiles.size(); ++t) {
        if (t == 0 || !chained) chains.push_back(jobs.size());
        jobs.push_back({&item, head, tiles[t]});
        slots = std::max(slots, tiles[t].encoded + tiles[t].raw_visible + tiles[t].rows);
        tile_rows = std::max(tile_rows, tiles[t].rows);
      }
    }
  }
  chains.push_back(jobs.size());
  return attention_scratch_bytes(tile_rows, call.heads / group.heads, slots, group.key_dim,
                                 group.value_dim, collects);
}

void attend(const LayerStep& step, const Attend& call) {
  const KvGroup& group = call.group;
  const int64_t shared = call.heads / group.heads;
  const int64_t query_width = call.heads * group.key_dim;
  const int64_t out_width = call.heads * group.value_dim;
  const int64_t scratch_bytes = plan_jobs(step, call);
  const std::vector<AttentionJob>& jobs = step.work.jobs;
  const std::vector<size_t>& chains = step.work.chains;
  auto& scratch = step.work.attention_scratch;
  scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : scratch) fit_aligned(buffer, scratch_bytes);
  step.pool.parallel_for(static_cast<int64_t>(chains.size()) - 1, [&](int64_t c, int thread) {
    const auto chain = static_cast<size_t>(c);
    for (size_t j = chains[chain]; j < chains[chain + 1]; ++j) {
      const AttentionJob& job = jobs[j];
      const KvHeadView view = job.item->kv->view(group.id, job.head, job.tile);
      const int64_t row = job.item->row + job.tile.row, first_head = job.head * shared;
      AttentionTask task;
      task.q = call.query + row * query_width + first_head * group.key_dim;
      task.q_stride = query_width;
      task.rows = job.tile.rows;
      task.group = shared;
      task.key_dim = group.key_dim;
      task.value_dim = group.value_dim;
      task.scale = call.scale;
      task.raw_visible = job.tile.raw_visible;
      task.out = call.out + row * out_width + first_head * group.value_dim;
      task.out_stride = out_width;
      task.scores = job.item->kv->scores(group.id, job.head, call.reader, job.tile);
      task.window = group.window;
      if (call.sinks != nullptr) task.sinks = call.sinks + first_head;
      attention_run(view, task, fit_aligned(scratch[static_cast<size_t>(thread)], scratch_bytes));
    }
  });
}

float scale_of(int64_t dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
}

void append(const LayerStep& step, const float* keys, const float* values) {
  const int64_t key_width = step.group.heads * step.group.key_dim;
  const int64_t value_width = step.group.heads * step.group.value_dim;
  for (const StackItem& item : step.items) {
    item.kv->append(step.group.id, keys + item.row * key_width,
                    values == nullptr ? nullptr : values + item.row * value_width, item.rows);
  }
}

// One map per head: x [R, H, x_width] (its first inputs) to y [R, H, y_width] (its first outputs).
// Heads are the unit of work, so each map runs in one thread.
void apply_per_head(const LayerStep& step, const std::vector<Linear>& heads, const float* x,
                    int64_t x_width, float* y, int64_t y_width) {
  const auto count = static_cast<int64_t>(heads.size());
  const int64_t bytes = linear_scratch_bytes(heads[0].shape, step.rows);
  auto& scratch = step.work.head_scratch;
  scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : scratch) fit_aligned(buffer, bytes);
  step.pool.parallel_for(count, [&](int64_t h, int thread) {
    const Linear& linear = heads[static_cast<size_t>(h)];
    linear_run(linear.shape, linear.packed, nullptr, x + h * x_width, count * x_width, step.rows,
               y + h * y_width, count * y_width,
               fit_aligned(scratch[static_cast<size_t>(thread)], bytes), step.work.serial);
  });
}

// What an owner's K/V projections read.
const float* kv_input(const LayerStep& step, const float* source_RD, const float* input_RD) {
  if (step.weights.kv_norm.gain == nullptr) return input_RD;
  float* own_RD = fit(step.work.out, step.rows * step.d_model);
  norm_rows(source_RD, step.weights.kv_norm, step.spec.norm, step.rows, step.d_model, own_RD,
            step.pool);
  return own_RD;
}

// [R, H, E].
float* grouped_attention(const LayerStep& step, const float* source_RD, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t width = a.heads * a.head_dim, kv_width = a.kv_heads * a.head_dim;
  float* query_RHE = fit(step.work.query, step.rows * width);
  apply_linear(w.query, input_RD, step.rows, query_RHE, step.work, step.pool);
  change_heads(step, query_RHE, {a.heads, a.head_dim, 0, w.query_norm});
  if (step.owns) {
    const float* kv_RD = kv_input(step, source_RD, input_RD);
    float* key_RKE = fit(step.work.key, step.rows * kv_width);
    float* value_RKE = fit(step.work.value, step.rows * kv_width);
    apply_linear(w.key, kv_RD, step.rows, key_RKE, step.work, step.pool);
    apply_linear(w.value, kv_RD, step.rows, value_RKE, step.work, step.pool);
    change_heads(step, key_RKE, {a.kv_heads, a.head_dim, 0, w.key_norm});
    append(step, key_RKE, value_RKE);
  }
  float* out_RHE = fit(step.work.attention, step.rows * width);
  attend(step, {step.group, step.reader, a.heads, query_RHE, out_RHE, scale_of(a.head_dim), w.sinks,
                step.bidirectional});
  return out_RHE;
}

// c = norm(W_c·h) and the shared key's RoPE, one cached row [C + P] each.
void project_latent(const LayerStep& step, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t width = a.latent_dim + a.rope.dim;
  float* row_RCP = fit(step.work.key, step.rows * width);
  apply_linear(w.latent, input_RD, step.rows, row_RCP, step.work, step.pool);
  step.pool.parallel_for(step.rows, [&](int64_t r, int) {
    float* row = row_RCP + r * width;
    rms_norm(row, w.latent_norm, step.spec.norm.eps, a.latent_dim, row);
  });
  change_heads(step, row_RCP, {1, width, a.latent_dim, nullptr});
  append(step, row_RCP, nullptr);
}

// The queries of all heads against cached rows: [R, H, C + P].
const float* absorbed_query(const LayerStep& step, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t turned = a.rope.dim, dim = a.query_dim(), width = a.latent_dim + turned;
  const float* input = input_RD;
  if (a.query_latent_dim > 0) {
    const int64_t rank = a.query_latent_dim;
    float* low = fit(step.work.low_rank, step.rows * rank);
    apply_linear(w.query_down, input_RD, step.rows, low, step.work, step.pool);
    step.pool.parallel_for(step.rows, [&](int64_t r, int) {
      rms_norm(low + r * rank, w.query_down_norm, step.spec.norm.eps, rank, low + r * rank);
    });
    input = low;
  }
  float* query_RHE = fit(step.work.query, step.rows * a.heads * dim);
  apply_linear(w.query, input, step.rows, query_RHE, step.work, step.pool);
  change_heads(step, query_RHE, {a.heads, dim, a.head_dim, nullptr});
  float* absorbed_RHCP = fit(step.work.absorbed, step.rows * a.heads * width);
  apply_per_head(step, step.owner.key_up, query_RHE, dim, absorbed_RHCP, width);
  for (int64_t i = 0; i < step.rows * a.heads; ++i) {
    std::copy_n(query_RHE + i * dim + a.head_dim, turned, absorbed_RHCP + i * width + a.latent_dim);
  }
  return absorbed_RHCP;
}

// [R, H, value_dim].
float* latent_attention(const LayerStep& step, const float* source_RD, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const float* query_RHCP = absorbed_query(step, input_RD);
  if (step.owns) project_latent(step, kv_input(step, source_RD, input_RD));
  float* mixed_RHC = fit(step.work.mixed, step.rows * a.heads * a.latent_dim);
  attend(step, {step.group, step.reader, a.heads, query_RHCP, mixed_RHC, scale_of(a.query_dim()),
                step.weights.sinks, step.bidirectional});
  const int64_t value = a.latent_value_dim;
  float* out = fit(step.work.attention, step.rows * a.heads * value);
  apply_per_head(step, step.owner.value_up, mixed_RHC, a.latent_dim, out, value);
  return out;
}

void add_projection(const LayerStep& step, const Linear& linear, const float* x, float* x_RD) {
  float* delta_RD = fit(step.work.out, step.rows * step.d_model);
  apply_linear(linear, x, step.rows, delta_RD, step.work, step.pool);
  add_inplace(x_RD, delta_RD, step.rows * step.d_model);
}

}  // namespace

void self_attention(const LayerStep& step, const float* source_RD, const float* input_RD,
                    float* x_RD) {
  const AttentionSpec& a = step.a();
  float* out = a.latent() ? latent_attention(step, source_RD, input_RD)
                          : grouped_attention(step, source_RD, input_RD);
  const HadamardPlan& plan = step.weights.heads_plan;
  if (plan.n != 0) {
    const int64_t width = a.heads * a.value_dim();
    step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
      hadamard_apply_strided(plan, out + r * width, a.value_dim(),
                             step.work.rotate.data() + thread * width);
    });
  }
  add_projection(step, step.weights.attention_out, out, x_RD);
}

void cross_attention(const LayerStep& step, const float* input_RD, float* x_RD) {
  const AttentionSpec& a = step.a();
  const int64_t width = a.heads * a.head_dim;
  float* query_RHE = fit(step.work.query, step.rows * width);
  apply_linear(step.weights.cross_query, input_RD, step.rows, query_RHE, step.work, step.pool);
  float* out_RHE = fit(step.work.attention, step.rows * width);
  attend(step, {*step.cross, 0, a.heads, query_RHE, out_RHE, scale_of(a.head_dim), nullptr, true});
  add_projection(step, step.weights.cross_out, out_RHE, x_RD);
}

void append_contexts(const StackModel& stack, std::span<KvStore* const> stores,
                     const float* context, int64_t rows, Workspace& work, ThreadPool& pool) {
  const int64_t all = static_cast<int64_t>(stores.size()) * rows;
  if (all == 0) return;
  for (size_t l = 0; l < stack.spec.layers.size(); ++l) {
    const LayerWeights& w = stack.weights.layers[l];
    const KvGroup& group = stack.groups[static_cast<size_t>(stack.cross_group[l])];
    const int64_t width = group.heads * group.key_dim;
    float* key = fit(work.key, all * width);
    float* value = fit(work.value, all * width);
    apply_linear(w.cross_key, context, all, key, work, pool);
    apply_linear(w.cross_value, context, all, value, work, pool);
    for (size_t i = 0; i < stores.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * rows * width;
      stores[i]->append(group.id, key + begin, value + begin, rows);
    }
  }
}

}  // namespace ashlar
