#include "engine/model/attention_step.h"

#include <algorithm>
#include <cmath>
#include <mutex>

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

struct AttentionPlan {
  int64_t scratch_bytes = 0;  // of the largest job
  bool collects = false;
  // No two chains add to the same scores.
  bool chained = true;
};

// Lists the jobs of all items and heads. Heads of one query row are one chain if they add to the
// same scores, or if there are many items: a thread that goes from head to head of a text reads
// memory faster than threads that share its heads. Every other job is a chain of its own.
AttentionPlan plan_jobs(const LayerStep& step, const Attend& call) {
  const KvGroup& group = call.group;
  std::vector<AttentionJob>& jobs = step.work.jobs;
  std::vector<size_t>& chains = step.work.chains;
  std::vector<QueryTile>& tiles = step.work.tiles;
  AttentionPlan plan;
  jobs.clear();
  chains.clear();
  int64_t slots = 0, tile_rows = 0, runs = kMaxKvRuns;
  const bool many = std::ssize(step.items) >= kChainsPerThread * step.pool.size();
  for (const StackItem& item : step.items) {
    const int64_t together = item.kv->heads_scored_together(group.id);
    plan.collects = plan.collects || together > 0;
    for (int64_t head = 0; head < group.heads; ++head) {
      if (call.full) {
        item.kv->full_tiles(group.id, item.rows, tiles);
      } else {
        item.kv->query_tiles(group.id, head, tiles);
      }
      const bool one_row = tiles.size() == 1 && tiles[0].rows == 1;
      if (together > 0 && !one_row) plan.chained = false;
      const int64_t chained = many ? group.heads : std::max<int64_t>(1, together);
      for (const QueryTile& tile : tiles) {
        if (!one_row || head % chained == 0) chains.push_back(jobs.size());
        jobs.push_back({&item, head, tile});
        slots = std::max(slots, tile.visible() + tile.rows - 1);
        tile_rows = std::max(tile_rows, tile.rows);
        runs = std::max(runs, tile.runs);
      }
    }
  }
  chains.push_back(jobs.size());
  plan.scratch_bytes = attention_scratch_bytes(tile_rows, call.heads / group.heads, slots,
                                               group.key_dim, group.value_dim, plan.collects, runs);
  return plan;
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
  const ScoreRows scores = job.item->kv->scores(group.id, job.head, job.tile);
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
  work.partials_of.clear();
  int64_t bytes = 0;
  for (const AttentionJob& job : work.jobs) {
    const KvHeadView& view =
        work.views.emplace_back(job.item->kv->view(call.group.id, job.head, job.tile));
    const AttentionTask& task = work.tasks.emplace_back(task_of(call, job));
    const int64_t splits = attention_splits(view, task), each = attention_partial_bytes(view, task);
    work.partials_of.push_back({bytes, each});
    for (int64_t s = 0; s < splits; ++s) work.splits.push_back({work.tasks.size() - 1, s});
    bytes += splits * each;
  }
  std::byte* partials = fit_aligned(work.partials, bytes);
  const auto of = [&](size_t task) { return partials + work.partials_of[task].offset; };
  step.pool.parallel_for(static_cast<int64_t>(work.splits.size()), [&](int64_t i, int thread) {
    const auto [task, split] = work.splits[static_cast<size_t>(i)];
    std::byte* scratch =
        fit_aligned(work.attention_scratch[static_cast<size_t>(thread)], scratch_bytes);
    attention_run_split(work.views[task], work.tasks[task], split,
                        of(task) + split * work.partials_of[task].bytes, scratch);
  });
  // Tasks are merged; and what those of a chain collect is added, the slots of a split at a time.
  step.pool.parallel_for(static_cast<int64_t>(work.splits.size()), [&](int64_t i, int) {
    const auto [task, split] = work.splits[static_cast<size_t>(i)];
    if (split == 0) attention_merge(work.views[task], work.tasks[task], of(task));
    const auto chain = std::lower_bound(work.chains.begin(), work.chains.end(), task);
    if (*chain != task || !work.tasks[task].collects()) return;
    for (size_t t = task; t < chain[1]; ++t) {
      attention_collect(work.views[t], work.tasks[t], split, of(t));
    }
  });
}

// A job whose scores others add to as well: it collects in numbers of its own, which are then
// added.
void attend_apart(const KvHeadView& view, const AttentionTask& task, Workspace& work, int thread,
                  std::byte* scratch) {
  const int64_t slots = view.encoded() + task.raw_visible + task.rows - 1 - task.score_slots;
  if (!task.collects() || slots <= 0) return attention_run(view, task, scratch);
  std::vector<uint32_t>& numbers = work.thread_scores[static_cast<size_t>(thread)];
  numbers.assign(static_cast<size_t>(3 * slots), 0);
  AttentionTask own = task;
  if (task.scores.low != nullptr) own.scores = {numbers.data(), numbers.data() + slots};
  if (task.counts != nullptr) own.counts = numbers.data() + 2 * slots;
  attention_run(view, own, scratch);
  const std::lock_guard lock(work.adding_scores);
  if (task.scores.low != nullptr) add_scores(task.scores, own.scores, slots);
  if (task.counts != nullptr) add_counts(task.counts, own.counts, slots);
}

}  // namespace

void attend(const LayerStep& step, const Attend& call) {
  Workspace& work = step.work;
  if (step.owns && !call.full) {
    const int64_t width = call.heads * call.group.key_dim;
    for (const StackItem& item : step.items) {
      item.kv->see_queries(call.group.id, call.query + item.row * width, call.heads, step.pool);
    }
  }
  const AttentionPlan plan = plan_jobs(step, call);
  work.attention_scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : work.attention_scratch) fit_aligned(buffer, plan.scratch_bytes);
  work.thread_scores.resize(static_cast<size_t>(step.pool.size()));
  const auto count = static_cast<int64_t>(work.chains.size()) - 1;
  if (plan.chained && step.pool.size() > 1 && count < kChainsPerThread * step.pool.size()) {
    return attend_by_splits(step, call, plan.scratch_bytes);
  }
  step.pool.parallel_for(count, [&](int64_t c, int thread) {
    const auto chain = static_cast<size_t>(c);
    std::byte* scratch =
        fit_aligned(work.attention_scratch[static_cast<size_t>(thread)], plan.scratch_bytes);
    for (size_t j = work.chains[chain]; j < work.chains[chain + 1]; ++j) {
      const AttentionJob& job = work.jobs[j];
      const KvHeadView view = job.item->kv->view(call.group.id, job.head, job.tile);
      const AttentionTask task = task_of(call, job);
      if (plan.chained) {
        attention_run(view, task, scratch);
      } else {
        attend_apart(view, task, work, thread, scratch);
      }
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
