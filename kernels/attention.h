#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec.h"

namespace ashlar {

/// The cached rows of one KV head as attention reads them: `encoded` rows in pages, then up to
/// `raw` fp32 rows. Slot s < encoded lies in page s / page_rows.
struct KvHeadView {
  CodecKind key_codec = CodecKind::kF32;
  CodecKind value_codec = CodecKind::kF32;
  const std::byte* const* pages = nullptr;  ///< page base addresses
  int64_t page_rows = 0;
  int64_t key_offset = 0;    ///< bytes from a page's base to this head's first encoded key
  int64_t value_offset = 0;  ///< likewise for values
  int64_t key_stride = 0;    ///< bytes between encoded keys of consecutive rows
  int64_t value_stride = 0;
  int64_t encoded = 0;              ///< encoded rows
  const float* raw_keys = nullptr;  ///< this head's first raw key
  const float* raw_values = nullptr;
  int64_t raw_key_stride = 0;  ///< floats between raw keys of consecutive rows
  int64_t raw_value_stride = 0;
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
  /// If set, receives the softmax probabilities: scores[s] += Σ_r Σ_h p_{r,h}(s), accumulated in
  /// ascending (r, h) order, s over all slots. Collecting never changes `out`.
  float* scores = nullptr;
  /// Row r, whose last visible slot is s, sees the slots above s − window only; 0: all. A tile that
  /// lies before all of them leaves the row untouched, so removing whole tiles in front of the
  /// cache changes no bit. Nothing is added to the scores of slots a row does not see.
  int64_t window = 0;
  /// One logit per head, [group], that takes part in the softmax and carries no value; null: none.
  const float* sinks = nullptr;
};

/// Slots are reduced in tiles of this many, aligned to slot 0, whatever the page size, chunk or
/// batch.
inline constexpr int64_t kAttentionTile = 64;

/// Bytes of scratch for tasks with up to `rows` rows, `group` heads and `slots` slots that the last
/// row sees. Without `collect_scores` (no task sets `scores`) it does not grow with `slots`.
int64_t attention_scratch_bytes(int64_t rows, int64_t group, int64_t slots, int64_t key_dim,
                                int64_t value_dim, bool collect_scores = true);

/// out = softmax(scale·q·Kᵀ)·V by online softmax over tiles in ascending slot order. A row's result
/// depends only on its q and the slots it sees. `scratch` is 64-byte aligned. Allocates nothing.
/// Every row must see at least one slot; a row that sees none is a programmer error
/// (Error(kInternal)). e^x is accurate to 2 ulp (kernels/simd/math_impl.h).
void attention_run(const KvHeadView& kv, const AttentionTask& task, std::byte* scratch);

}  // namespace ashlar
