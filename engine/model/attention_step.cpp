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

// With fewer chains than this for each thread, threads would wait for the last of them.
constexpr int64_t kChainsPerThread = 4;

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
  int64_t slots = 0, tile_rows = 0, runs = kMaxKvRuns;
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
        slots = std::max(slots, tiles[t].visible() + tiles[t].rows - 1);
        tile_rows = std::max(tile_rows, tiles[t].rows);
        runs = std::max(runs, tiles[t].runs);
      }
    }
  }
  chains.push_back(jobs.size());
  return attention_scratch_bytes(tile_rows, call.heads / group.heads, slots, group.key_dim,
                                 group.value_dim, collects, runs);
}

AttentionTask task_of(const Attend& call, const AttentionJob& job) {
  const KvGroup& group = call.group;
  const int64_t shared = call.heads / group.heads, first_head = job.head * shared;
  const int64_t row = job.item->row + job.tile.row;
  AttentionTask task;
  task.q_stride = call.heads * group.key_dim;
  task.q = call.query + row * task.q_stride + first_head * group.key_dim;
  task.rows = job.tile.rows;
  task.group = shared;
  task.key_dim = group.key_dim;
  task.value_dim = group.value_dim;
  task.scale = call.scale;
  task.raw_visible = job.tile.raw_visible;
  task.out_stride = call.heads * group.value_dim;
  task.out = call.out + row * task.out_stride + first_head * group.value_dim;
  const ScoreRows scores = job.item->kv->scores(group.id, job.head, call.reader, job.tile);
  task.scores = scores.sums;
  task.counts = scores.counts;
  task.score_from = scores.from;
  task.score_rows = scores.rows;
  task.score_slots = scores.slots;
  task.window = group.window;
  if (call.sinks != nullptr) task.sinks = call.sinks + first_head;
  return task;
}

// Few heads read a long cache: the splits of a task become work for all threads. The bits are those
// of attention_run.
void attend_by_splits(const LayerStep& step, const Attend& call, int64_t scratch_bytes) {
  Workspace& work = step.work;
  work.tasks.clear();
  work.views.clear();
  work.splits.clear();
  int64_t bytes = 0;
  for (const AttentionJob& job : work.jobs) {
    work.views.push_back(job.item->kv->view(call.group.id, job.head, job.tile));
    work.tasks.push_back(task_of(call, job));
    const int64_t splits = attention_splits(work.views.back(), work.tasks.back());
    const int64_t each = attention_partial_bytes(work.views.back(), work.tasks.back());
    for (int64_t s = 0; s < splits; ++s, bytes += each) {
      work.splits.push_back({work.tasks.size() - 1, s, bytes});
    }
  }
  std::byte* partials = fit_aligned(work.partials, bytes);
  step.pool.parallel_for(static_cast<int64_t>(work.splits.size()), [&](int64_t i, int thread) {
    const AttentionSplit& split = work.splits[static_cast<size_t>(i)];
    std::byte* scratch =
        fit_aligned(work.attention_scratch[static_cast<size_t>(thread)], scratch_bytes);
    attention_run_split(work.views[split.task], work.tasks[split.task], split.split,
                        partials + split.offset, scratch);
  });
  step.pool.parallel_for(static_cast<int64_t>(work.splits.size()), [&](int64_t i, int) {
    const AttentionSplit& split = work.splits[static_cast<size_t>(i)];
    if (split.split != 0) return;
    attention_merge(work.views[split.task], work.tasks[split.task], partials + split.offset);
  });
}

}  // namespace

void attend(const LayerStep& step, const Attend& call) {
  if (step.owns && !call.full) {
    const int64_t width = call.heads * call.group.key_dim;
    for (const StackItem& item : step.items) {
      item.kv->see_queries(call.group.id, call.query + item.row * width, call.heads, step.pool);
    }
  }
  const int64_t scratch_bytes = plan_jobs(step, call);
  const std::vector<AttentionJob>& jobs = step.work.jobs;
  const std::vector<size_t>& chains = step.work.chains;
  auto& scratch = step.work.attention_scratch;
  scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : scratch) fit_aligned(buffer, scratch_bytes);
  const auto count = static_cast<int64_t>(chains.size()) - 1;
  const bool decoding = count == static_cast<int64_t>(jobs.size());  // no chain has two tiles
  if (decoding && step.pool.size() > 1 && count < kChainsPerThread * step.pool.size()) {
    return attend_by_splits(step, call, scratch_bytes);
  }
  step.pool.parallel_for(count, [&](int64_t c, int thread) {
    const auto chain = static_cast<size_t>(c);
    for (size_t j = chains[chain]; j < chains[chain + 1]; ++j) {
      const KvHeadView view = jobs[j].item->kv->view(call.group.id, jobs[j].head, jobs[j].tile);
      attention_run(view, task_of(call, jobs[j]),
                    fit_aligned(scratch[static_cast<size_t>(thread)], scratch_bytes));
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
