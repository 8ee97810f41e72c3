#include "engine/model/attention_step.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/elementwise.h"

namespace ashlar {

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

namespace {

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

}  // namespace

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

float attention_scale(int64_t dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
}

void append_rows(const LayerStep& step, const float* keys, const float* values) {
  const int64_t key_width = step.group.heads * step.group.key_dim;
  const int64_t value_width = step.group.heads * step.group.value_dim;
  for (const StackItem& item : step.items) {
    item.kv->append(step.group.id, keys + item.row * key_width,
                    values == nullptr ? nullptr : values + item.row * value_width, item.rows);
  }
}

const float* kv_input(const LayerStep& step, const float* source_RD, const float* input_RD) {
  if (step.weights.kv_norm.gain == nullptr) return input_RD;
  float* own_RD = fit(step.work.out, step.rows * step.d_model);
  norm_rows(source_RD, step.weights.kv_norm, step.spec.norm, step.rows, step.d_model, own_RD,
            step.pool);
  return own_RD;
}

}  // namespace ashlar
