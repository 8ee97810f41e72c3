#include "kernels/attention.h"

#include "core/base/checked.h"
#include "core/base/error.h"
#include "kernels/dispatch.h"

namespace ashlar {
namespace {

constexpr int64_t kPad = 16;  // lanes of the kernels' virtual register

}  // namespace

int64_t attention_scratch_bytes(int64_t rows, int64_t group, int64_t slots, int64_t key_dim,
                                int64_t value_dim, bool collect_scores) {
  ASHLAR_CHECK(rows >= 0 && group >= 1 && slots >= 0 && key_dim >= 1 && value_dim >= 1);
  const char* what = "attention scratch";
  const int64_t key_pad = round_up(key_dim, kPad), value_pad = round_up(value_dim, kPad);
  const int64_t queries = checked_mul(rows, group, what);
  int64_t floats = checked_mul(key_pad + value_pad, kAttentionTile, what);
  floats = checked_add(floats, checked_mul(key_pad, kPad, what), what);
  floats = checked_add(floats, checked_mul(value_pad, queries, what), what);
  floats = checked_add(floats, 2 * round_up(queries, kPad), what);
  if (collect_scores) {
    const int64_t kept = checked_mul(round_up(slots, kAttentionTile), queries, what);
    floats = checked_add(floats, kept, what);
  }
  return checked_mul(floats, 4, what);
}

void attention_run(const KernelTable& kernels, const KvHeadView& kv, const AttentionTask& task,
                   std::byte* scratch) {
  if (task.rows == 0) return;
  ASHLAR_CHECK(task.rows > 0 && task.group > 0 && task.key_dim > 0 && task.value_dim > 0);
  ASHLAR_CHECK(kv.encoded >= 0 && task.raw_visible >= 0 && task.window >= 0);
  ASHLAR_CHECK(kv.encoded == 0 || (kv.pages != nullptr && kv.page_rows > 0));
  // Softmax over nothing has no value.
  ASHLAR_CHECK_GE(kv.encoded + task.raw_visible, 1);
  kernels.attention(kv, task, scratch);
}

void attention_run(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch) {
  attention_run(active_kernels(), kv, task, scratch);
}

}  // namespace ashlar
