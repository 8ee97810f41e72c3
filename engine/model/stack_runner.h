#pragma once

#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "core/base/threads.h"
#include "engine/cache/kv_store.h"
#include "engine/model/observer.h"
#include "engine/model/weights.h"
#include "kernels/attention.h"
#include "models/spec/spec.h"

namespace ashlar {

/// Rows of one sequence (or one block) in a step: `rows` rows from `row` on, at consecutive
/// positions.
struct StackItem {
  KvStore* kv = nullptr;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t position = 0;
};

/// One run of query rows against one cached head.
struct AttentionJob {
  const StackItem* item = nullptr;
  int64_t head = 0;
  QueryTile tile;
};

/// One split of the task with number `task`.
struct AttentionSplit {
  size_t task = 0;
  int64_t split = 0;
};
/// Where the partial results of a task's splits lie, `bytes` apart.
struct AttentionPartials {
  int64_t offset = 0;
  int64_t bytes = 0;
};

/// Buffers of a step, kept between steps so that steady decoding allocates nothing.
struct Workspace {
  std::vector<float> norm, before, query, key, value, attention, gate, up, out;
  std::vector<float> low_rank, absorbed, mixed;  // latent attention
  std::vector<float> rope_cos, rope_sin, rotate;
  std::vector<std::byte> linear_scratch;
  std::vector<std::vector<std::byte>> attention_scratch, head_scratch;  // per thread
  std::vector<QueryTile> tiles;
  std::vector<AttentionJob> jobs;
  std::vector<AttentionTask> tasks;
  std::vector<KvHeadView> views;
  std::vector<AttentionSplit> splits;
  std::vector<AttentionPartials> partials_of;  // per task
  std::vector<std::byte> partials;
  std::vector<size_t> chains;  // where each run of jobs of one thread begins, and the end
  std::vector<std::vector<uint32_t>> thread_scores;  // what a job collects, per thread
  std::mutex adding_scores;
  ThreadPool serial{1};  // runs what is one thread's share of a loop
};

/// A stack with its weights and the KvGroups its layers read.
struct StackModel {
  const StackSpec& spec;
  const StackWeights& weights;
  std::span<const KvGroup> groups;       ///< by id
  std::span<const int64_t> group;        ///< per layer: of its self-attention
  std::span<const int64_t> cross_group;  ///< per layer, empty without cross-attention
  AttentionObserver* observer = nullptr;
};

/// Called when the last reader of a group has run for all items.
using CloseGroup = std::function<void(int64_t group)>;

/// Runs every layer on x [rows, d_model] in place (the residual stream, final norm not applied).
/// The contexts of cross-attention must have been appended (append_contexts).
void run_stack(const StackModel& stack, std::span<const StackItem> items, float* x, int64_t rows,
               Workspace& work, ThreadPool& pool, const CloseGroup& close);

/// Cross-attention keys and values of the blocks `stores`, from their context rows [stores, rows,
/// d_model], for every layer. They serve the block until it ends.
void append_contexts(const StackModel& stack, std::span<KvStore* const> stores,
                     const float* context, int64_t rows, Workspace& work, ThreadPool& pool);

/// y = linear(x), with scratch from `work`.
void apply_linear(const Linear& linear, const float* x, int64_t rows, float* y, Workspace& work,
                  ThreadPool& pool);

/// y[r] = norm(x[r]) for every row; y may be x.
void norm_rows(const float* x, const NormWeights& weights, const NormSpec& norm, int64_t rows,
               int64_t width, float* y, ThreadPool& pool);

}  // namespace ashlar
