#pragma once

#include <vector>

#include "engine/cache/sequence_cache.h"
#include "kernels/kv_page.h"

// Rows of a cache as attention reads them, for tests.

namespace ashlar::test {

/// The key and then the value of slot `slot` of a view of a lane's head number `local`; `heads`:
/// those of the lane. Empty for a slot that the view's runs do not hold and `raw` does not count.
inline std::vector<float> slot_values(const KvHeadView& view, const KvGroup& group, int64_t heads,
                                      int64_t local, int64_t slot) {
  const int64_t key = group.key_dim, value = group.value_in_key ? 0 : group.value_dim;
  std::vector<float> out;
  for (int64_t r = 0; r < view.run_count; ++r) {
    const KvRun& run = view.runs[r];
    if (slot >= run.rows) {
      slot -= run.rows;
      continue;
    }
    const KvPageShape shape{run.key_codec,   run.value_codec,    heads,        key,
                            group.value_dim, group.value_in_key, run.page_rows};
    std::vector<float> keys(static_cast<size_t>(heads * key));
    std::vector<float> values(static_cast<size_t>(heads * value));
    const int64_t row = run.first + slot;
    kv_page_decode(shape, run.pages[row / run.page_rows], row % run.page_rows, 1, keys.data(),
                   heads * key, value == 0 ? nullptr : values.data(), heads * value);
    out.assign(keys.begin() + local * key, keys.begin() + (local + 1) * key);
    out.insert(out.end(), values.begin() + local * value, values.begin() + (local + 1) * value);
    return out;
  }
  const float* at = view.raw_keys + slot * view.raw_key_stride;
  out.assign(at, at + key);
  const float* of_value = view.raw_values + slot * view.raw_value_stride;
  out.insert(out.end(), of_value, of_value + value);
  return out;
}

/// The tile of a query that sees everything the lane holds, between steps.
inline QueryTile everything(const LaneImage& lane) {
  QueryTile tile;
  tile.rows = 1;
  tile.sinks = lane.sinks;
  tile.coded = lane.coded;
  tile.late = lane.late;
  tile.raw_visible =
      static_cast<int64_t>(lane.positions.size()) - lane.sinks - lane.coded - lane.late;
  return tile;
}

}  // namespace ashlar::test
