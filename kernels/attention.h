#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec.h"
#include "kernels/score_sums.h"

namespace ashlar {

/// Consecutive cached rows of one KV head in pages of one shape (kernels/kv_page.h).
struct KvRun {
  CodecKind key_codec = CodecKind::kF32;
  CodecKind value_codec = CodecKind::kF32;
  bool value_in_key = false;                ///< the page holds keys alone, row by row
  const std::byte* const* pages = nullptr;  ///< page base addresses
  int64_t page_rows = 0;
  int64_t key_offset = 0;    ///< bytes from a page's base to this head's keys
  int64_t value_offset = 0;  ///< likewise its values
  int64_t first = 0;         ///< row of the first page where the run begins, 0 … page_rows − 1
  int64_t rows = 0;
  /// Runs of a segment whose parameters are those of channels (kernels/kv_zip.h): fp16 min
  /// [key_dim] and step [key_dim] of the keys, and what channels of values are multiplied with
  /// [value_dim]. Null: parameters are those of rows. Runs that follow each other with one
  /// `value_channels` share its products.
  const std::byte* key_channels = nullptr;
  const std::byte* value_channels = nullptr;
};

inline constexpr int64_t kMaxKvRuns = 4;

/// The cached rows of one KV head as attention reads them: runs of encoded rows, then raw fp32
/// rows. Slots number all of them in this order.
struct KvHeadView {
  KvRun runs[kMaxKvRuns];
  int64_t run_count = 0;
  /// More runs than those, in front of them: of segments, whose number grows with the text.
  const KvRun* segments = nullptr;
  int64_t segment_runs = 0;
  const float* raw_keys = nullptr;  ///< this head's first raw key
  const float* raw_values = nullptr;
  int64_t raw_key_stride = 0;  ///< floats between raw keys of consecutive rows
  int64_t raw_value_stride = 0;

  // Always inlined: code of one instruction set must not serve another.
  __attribute__((always_inline)) int64_t all_runs() const { return segment_runs + run_count; }
  __attribute__((always_inline)) const KvRun& run(int64_t r) const {
    return r < segment_runs ? segments[r] : runs[r - segment_runs];
  }
  int64_t encoded() const {
    int64_t total = 0;
    for (int64_t r = 0; r < all_runs(); ++r) total += run(r).rows;
    return total;
  }
};

/// One attention problem: `rows` consecutive query rows × `group` query heads that share one KV
/// head. Row r sees every encoded row and the first raw_visible + r raw rows (its own key
/// included).
struct AttentionTask {
  const float* q = nullptr;  ///< q[r·q_stride + h·key_dim + i]
  int64_t q_stride = 0;
  int64_t rows = 0;
  int64_t group = 1;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  float scale = 0;          ///< multiplies q·k, usually 1/√key_dim
  int64_t raw_visible = 0;  ///< raw rows that row 0 sees, ≥ 0
  float* out = nullptr;     ///< out[r·out_stride + h·value_dim + i]
  int64_t out_stride = 0;
  /// If set, softmax probabilities are added to them: Σ_h p_{r,h}(s) of every row r and slot s,
  /// each rounded to a whole number (kernels/score_sums.h), so that tasks may come in any order,
  /// but not at once. Collecting never changes `out`.
  ScoreSums scores;
  /// If set, counts[s] += Σ_r [ mean_h p_{r,h}(s) < 1/n_r ] over the slots s that row r sees, n_r
  /// many (Scissorhands, arXiv 2305.17118). Needs no `scores`.
  uint32_t* counts = nullptr;
  int64_t score_from = 0;  ///< rows before this one add nothing to scores and counts
  /// If set, of the others only rows r with score_rows[r] ≠ 0 do.
  const uint8_t* score_rows = nullptr;
  /// Slots before this one get nothing; the first numbers of scores and counts are this slot's.
  int64_t score_slots = 0;
  /// Row r, whose last visible slot is s, sees the slots above s − window only; 0: all. A tile that
  /// lies before all of them leaves the row untouched, so removing whole tiles in front of the
  /// cache changes no bit. Nothing is added to the scores of slots a row does not see.
  int64_t window = 0;
  /// One logit per head, [group], that takes part in the softmax and carries no value; null: none.
  const float* sinks = nullptr;

  /// Whether its rows may add to scores or counts. Always inlined: code of one instruction set must
  /// not serve another.
  __attribute__((always_inline)) bool collects() const {
    return scores.low != nullptr || counts != nullptr;
  }
};

/// Rows are reduced in tiles of this many, which begin where a run (or the raw rows) begins and
/// never reach into the next, whatever the page size, chunk or batch. The first tile of a run with
/// channels begins at a multiple of sixteen rows of its page, with rows that nobody sees, so that
/// rows of a segment fill registers wherever it begins.
inline constexpr int64_t kAttentionTile = 64;
inline constexpr int64_t kAttentionPair = 2 * kAttentionTile;
/// Whether tiles 2i and 2i + 1 of a run in pages of separate keys and values are reduced as one,
/// unless a split ends between them: those of codes of at most four bits, whose arithmetic costs
/// more than reading them. Always inlined: code of one instruction set must not serve another.
__attribute__((always_inline)) constexpr bool attention_pairs(CodecKind key, CodecKind value) {
  static_assert(CodecKind::kQ8 < CodecKind::kQ4 && CodecKind::kQ4 < CodecKind::kQ3 &&
                CodecKind::kQ3 < CodecKind::kQ2);
  return key >= CodecKind::kQ4 && value >= CodecKind::kQ4;
}
/// Multiples of as many rows in front of a run may go without moving a border between tiles.
constexpr int64_t attention_unit(CodecKind key, CodecKind value) {
  return attention_pairs(key, value) ? kAttentionPair : kAttentionTile;
}
/// Tiles of one split, counted over all runs and raw rows. Each split is an online softmax of its
/// own; they are merged in ascending order. A task with a window has one split.
inline constexpr int64_t kAttentionSplit = 32;

/// Bytes of scratch for tasks with up to `rows` rows, `group` heads and `slots` slots, in `runs`
/// runs, that the last row sees. Without `collect_scores` (no task sets `scores` or `counts`) it
/// does not grow with `slots`; with it, it grows with `slots` times the queries of at most 256 rows
/// · heads.
int64_t attention_scratch_bytes(int64_t rows, int64_t group, int64_t slots, int64_t key_dim,
                                int64_t value_dim, bool collect_scores = true,
                                int64_t runs = kMaxKvRuns);

/// out = softmax(scale·q·Kᵀ)·V by online softmax over tiles in ascending slot order. A row's result
/// depends only on its q and the slots it sees. Keys and values in codes (q8 … q2) are multiplied
/// as integers with q and the probabilities rounded to 16 bits, q to 8 for keys of at most four:
/// kernels/simd/attention_block_impl.h; where parameters are those of channels, q is multiplied
/// with the keys' before it is rounded, and sums with the values' at a segment's end:
/// kernels/simd/attention_impl.h. `scratch` is 64-byte aligned. Allocates nothing. Every row
/// must see at least one slot; a row that sees none is a programmer error (Error(kInternal)). e^x
/// is accurate to 2 ulp (kernels/simd/math_impl.h).
void attention_run(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch);

// One long task on several threads: its splits as separate jobs, which write to partial results,
// then one merge. The same operations as attention_run, so the same bits in out, scores and counts:
//   for split in 0 … attention_splits(kv, task) − 1, in any order, at once:
//     attention_run_split(kv, task, split, partials + split · bytes, a scratch of the thread);
//   then, in any order, at once:
//     attention_merge(kv, task, partials);    bytes = attention_partial_bytes(kv, task)
//     if it collects, for each split: attention_collect(kv, task, split, partials);

/// Splits of a task, at least 1; a task with a window has 1.
int64_t attention_splits(const KvHeadView& kv, const AttentionTask& task);
/// Bytes of one split's result, a multiple of 64; more where the task collects.
int64_t attention_partial_bytes(const KvHeadView& kv, const AttentionTask& task);
/// `partial`: attention_partial_bytes, 64-byte aligned; scratch: as for attention_run, though
/// without collect_scores. Writes nothing but these two.
void attention_run_split(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                         std::byte* partial, std::byte* scratch);
/// Merges the partial results of all splits, side by side, into the first of them and writes out.
void attention_merge(const KvHeadView& kv, const AttentionTask& task, std::byte* partials);
/// Adds the probabilities of one split's slots to scores and counts; once for each.
void attention_collect(const KvHeadView& kv, const AttentionTask& task, int64_t split,
                       std::byte* partials);

}  // namespace ashlar
