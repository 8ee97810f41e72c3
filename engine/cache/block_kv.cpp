#include "engine/cache/block_kv.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {

BlockKv::BlockKv(std::span<const KvGroup> groups, int64_t capacity) : capacity_(capacity) {
  stores_.resize(groups.size());
  for (const KvGroup& g : groups) {
    if (g.lifetime != KvLifetime::kBlock) continue;
    Store& store = stores_[static_cast<size_t>(g.id)];
    store.heads = g.heads;
    store.key_dim = g.key_dim;
    store.value_dim = g.value_dim;
    store.value_in_key = g.value_in_key;
    store.keys.resize(static_cast<size_t>(capacity * g.heads * g.key_dim));
    if (!g.value_in_key) {
      store.values.resize(static_cast<size_t>(capacity * g.heads * g.value_dim));
    }
  }
}

void BlockKv::append(int64_t group, const float* keys, const float* values, int64_t rows) {
  Store& store = stores_[static_cast<size_t>(group)];
  ASHLAR_CHECK_LE(store.rows + rows, capacity_);
  const int64_t key_width = store.heads * store.key_dim;
  const int64_t value_width = store.heads * store.value_dim;
  std::copy_n(keys, rows * key_width, store.keys.data() + store.rows * key_width);
  if (!store.value_in_key) {
    std::copy_n(values, rows * value_width, store.values.data() + store.rows * value_width);
  }
  store.rows += rows;
  store.appended = rows;
}

void BlockKv::query_tiles(int64_t group, int64_t, std::vector<QueryTile>& tiles) const {
  const Store& store = stores_[static_cast<size_t>(group)];
  tiles.assign(1, {0, store.appended, 0, 0, store.rows - store.appended + 1});
}

// A task's later rows see one raw row more each, so these tiles are of one row.
void BlockKv::full_tiles(int64_t group, int64_t rows, std::vector<QueryTile>& tiles) const {
  const Store& store = stores_[static_cast<size_t>(group)];
  tiles.clear();
  for (int64_t r = 0; r < rows; ++r) tiles.push_back({r, 1, 0, 0, store.rows});
}

KvHeadView BlockKv::view(int64_t group, int64_t head, const QueryTile& tile) const {
  const Store& store = stores_[static_cast<size_t>(group)];
  KvHeadView view;
  view.raw_key_stride = store.heads * store.key_dim;
  view.raw_keys = store.keys.data() + tile.raw_offset * view.raw_key_stride + head * store.key_dim;
  if (store.value_in_key) {
    view.raw_values = view.raw_keys;
    view.raw_value_stride = view.raw_key_stride;
    return view;
  }
  view.raw_value_stride = store.heads * store.value_dim;
  view.raw_values =
      store.values.data() + tile.raw_offset * view.raw_value_stride + head * store.value_dim;
  return view;
}

int64_t BlockKv::rows() const {
  for (const Store& store : stores_) {
    if (store.heads > 0) return store.rows;
  }
  return 0;
}

void BlockKv::clear() {
  for (Store& store : stores_) store.rows = store.appended = 0;
}

int64_t BlockKv::bytes() const {
  size_t total = 0;
  for (const Store& store : stores_) total += (store.keys.size() + store.values.size()) * 4;
  return static_cast<int64_t>(total);
}

}  // namespace ashlar
