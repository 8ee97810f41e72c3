#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/base/threads.h"
#include "engine/cache/kv_store.h"
#include "engine/model/weights.h"

namespace ashlar {

/// Rows of one sequence (or one block) in a step: `rows` rows from `row` on, at consecutive
/// positions.
struct StackItem {
  KvStore* kv = nullptr;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t position = 0;
};

/// Buffers of a step, kept between steps so that steady decoding allocates nothing.
struct Workspace {
  std::vector<float> norm, query, key, value, attention, gate, up, out;
  std::vector<float> rope_cos, rope_sin, rotate;
  std::vector<std::byte> linear_scratch;
  std::vector<std::vector<std::byte>> attention_scratch;  // per thread
};

/// Called when the last reader of a group has run for all items.
using CloseGroup = std::function<void(int64_t group)>;

/// Runs every layer of `stack` on x [rows, d_model] in place (the residual stream, final norm
/// not applied). `groups` are kv_groups(spec), `group_of_layer` the group each layer reads.
void run_stack(const StackSpec& stack, const StackWeights& weights, std::span<const KvGroup> groups,
               std::span<const int64_t> group_of_layer, std::span<const StackItem> items, float* x,
               int64_t rows, Workspace& work, ThreadPool& pool, const CloseGroup& close);

/// y = linear(x), with scratch from `work`.
void apply_linear(const Linear& linear, const float* x, int64_t rows, float* y, Workspace& work,
                  ThreadPool& pool);

/// y[r] = RMSNorm(x[r])·gain for every row; y may be x.
void norm_rows(const float* x, const float* gain, const NormSpec& norm, int64_t rows, int64_t width,
               float* y, ThreadPool& pool);

}  // namespace ashlar
