#include "kernels/attention.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "kernels/attention_plan.h"
#include "kernels/dispatch.h"

namespace ashlar {
namespace {

constexpr int64_t kPad = 16;  // lanes of the kernels' virtual register
constexpr const char* kWhat = "attention scratch";

/// Floats of an online softmax of `queries` queries.
int64_t state_floats(int64_t queries, int64_t value_dim) {
  const int64_t acc = checked_mul(queries, round_up(value_dim, 4 * kPad), kWhat);
  return checked_add(acc, 3 * round_up(queries, kPad), kWhat);
}

void check_task(const KvHeadView& kv, const AttentionTask& task) {
  ASHLAR_CHECK(task.rows > 0 && task.group > 0 && task.key_dim > 0 && task.value_dim > 0);
  ASHLAR_CHECK(task.raw_visible >= 0 && task.window >= 0 && task.score_from >= 0);
  ASHLAR_CHECK(task.score_slots >= 0 && kv.segment_runs >= 0);
  ASHLAR_CHECK((task.scores.low == nullptr) == (task.scores.high == nullptr));
  ASHLAR_CHECK(kv.run_count >= 0 && kv.run_count <= kMaxKvRuns);
  for (int64_t r = 0; r < kv.all_runs(); ++r) {
    const KvRun& run = kv.run(r);
    ASHLAR_CHECK_GE(run.rows, 0);
    if (run.rows == 0) continue;
    ASHLAR_CHECK(run.pages != nullptr && run.first >= 0 && run.first < run.page_rows);
    ASHLAR_CHECK(!run.value_in_key || task.value_dim <= task.key_dim);
    ASHLAR_CHECK((run.key_channels == nullptr) == (run.value_channels == nullptr));
    if (run.key_channels == nullptr) continue;
    ASHLAR_CHECK(codec_levels(run.key_codec) > 0 && codec_levels(run.value_codec) > 0 &&
                 !run.value_in_key);
  }
  // Softmax over nothing has no value.
  ASHLAR_CHECK_GE(kv.encoded() + task.raw_visible, 1);
}

int64_t tiles_of(const KvHeadView& kv, const AttentionTask& task) {
  int64_t total = (task.raw_visible + task.rows - 1 + kAttentionTile - 1) / kAttentionTile;
  for (int64_t r = 0; r < kv.all_runs(); ++r) total += run_tiles(kv.run(r));
  return total;
}

}  // namespace

int64_t attention_chunk_rows(int64_t group) { return std::max<int64_t>(1, 256 / group); }

int64_t attention_scratch_bytes(int64_t rows, int64_t group, int64_t slots, int64_t key_dim,
                                int64_t value_dim, bool collect_scores, int64_t runs) {
  ASHLAR_CHECK(runs >= 0 && rows >= 0 && group >= 1 && slots >= 0 && key_dim >= 1 &&
               value_dim >= 1);
  const int64_t key_pad = round_up(key_dim, kPad), value_pad = round_up(value_dim, kPad);
  const int64_t queries = checked_mul(std::min(rows, attention_chunk_rows(group)), group, kWhat);
  int64_t floats = checked_mul(key_pad + value_pad, kAttentionPair, kWhat);
  floats = checked_add(floats, checked_mul(key_pad, kPad, kWhat), kWhat);
  floats = checked_add(floats, checked_mul(2, state_floats(queries, value_dim), kWhat), kWhat);
  // Queries as floats and, in two orders, in 16 bits.
  const int64_t packed = round_up(checked_mul(queries, key_dim, kWhat), kPad);
  const int64_t rounded = 2 * round_up(checked_mul(queries, key_pad / 2, kWhat), kPad);
  floats = checked_add(floats, packed + rounded + 3 * round_up(queries, kPad), kWhat);
  // Those scaled by a segment's channels, and what segments behind have added up to.
  floats = checked_add(floats, rounded + 3 * round_up(queries, kPad), kWhat);
  floats = checked_add(floats, checked_mul(queries, round_up(value_dim, 4 * kPad), kWhat), kWhat);
  floats = checked_add(floats, round_up(queries, kPad), kWhat);
  if (collect_scores) {
    // Every run may begin with a tile of fewer rows, and it and the raw rows end in one.
    const int64_t tiles =
        checked_add(slots / kAttentionTile + kMaxKvRuns + 1, checked_mul(2, runs, kWhat), kWhat);
    floats = checked_add(floats, checked_mul(tiles * (kAttentionTile + 1), queries, kWhat), kWhat);
  }
  return checked_mul(floats, 4, kWhat);
}

void attention_run(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                   std::byte* scratch) {
  if (task.rows == 0) return;
  check_task(kv, task);
  kernels.attention(kv, task, scratch);
}

void attention_run_split(const KernelTable& kernels, const KvHeadView& kv,
                         const AttentionTask& task, int64_t split, std::byte* partial,
                         std::byte* scratch) {
  ASHLAR_CHECK(split >= 0 && split < attention_splits(kv, task));
  kernels.attention_split(kv, task, split, partial, scratch);
}

void attention_merge(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                     std::byte* partials) {
  kernels.attention_merge(kv, task, partials, attention_partial_bytes(kv, task));
}

void attention_collect(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                       int64_t split, std::byte* partials) {
  ASHLAR_CHECK(split >= 0 && split < attention_splits(kv, task));
  kernels.attention_collect(kv, task, split, partials, attention_partial_bytes(kv, task));
}

int64_t attention_splits(const KvHeadView& kv, const AttentionTask& task) {
  check_task(kv, task);
  if (task.window > 0) return 1;
  return (tiles_of(kv, task) + kAttentionSplit - 1) / kAttentionSplit;
}

int64_t attention_partial_bytes(const KvHeadView& kv, const AttentionTask& task) {
  check_task(kv, task);
  const int64_t queries = checked_mul(task.rows, task.group, kWhat);
  int64_t floats = state_floats(queries, task.value_dim);
  if (task.collects()) {
    const int64_t all = tiles_of(kv, task);
    const int64_t tiles = task.window > 0 ? all : std::min(all, kAttentionSplit);
    floats = checked_add(floats, checked_mul(tiles * (kAttentionTile + 1), queries, kWhat), kWhat);
  }
  return checked_mul(round_up(floats, kPad), 4, kWhat);
}

void attention_run(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch) {
  attention_run(active_kernels(), kv, task, scratch);
}

void attention_run_split(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                         std::byte* partial, std::byte* scratch) {
  attention_run_split(active_kernels(), kv, task, split, partial, scratch);
}

void attention_merge(const KvHeadView& kv, const AttentionTask& task, std::byte* partials) {
  attention_merge(active_kernels(), kv, task, partials);
}

void attention_collect(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                       std::byte* partials) {
  attention_collect(active_kernels(), kv, task, split, partials);
}

}  // namespace ashlar
