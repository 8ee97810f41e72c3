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
  QueryTile tile;
  tile.rows = store.appended;
  tile.raw_visible = store.rows - store.appended + 1;
  tiles.assign(1, tile);
}

// A task's later rows see one raw row more each, so these tiles are of one row.
void BlockKv::full_tiles(int64_t group, int64_t rows, std::vector<QueryTile>& tiles) const {
  const Store& store = stores_[static_cast<size_t>(group)];
  tiles.clear();
  QueryTile tile;
  tile.rows = 1;
  tile.raw_visible = store.rows;
  for (tile.row = 0; tile.row < rows; ++tile.row) tiles.push_back(tile);
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

BlockImage BlockKv::image() const {
  BlockImage image;
  for (const Store& store : stores_) {
    BlockImage::Group& group = image.groups.emplace_back();
    group.rows = store.rows;
    const int64_t keys = store.rows * store.heads * store.key_dim;
    const int64_t values = store.value_in_key ? 0 : store.rows * store.heads * store.value_dim;
    group.keys.assign(store.keys.begin(), store.keys.begin() + keys);
    group.values.assign(store.values.begin(), store.values.begin() + values);
  }
  return image;
}

void BlockKv::load(const BlockImage& image, const std::string& what) {
  require(image.groups.size() == stores_.size(), ErrorCode::kData,
          "{}: a block of {} KV groups, but the model has {}", what, image.groups.size(),
          stores_.size());
  for (size_t g = 0; g < stores_.size(); ++g) {
    const Store& store = stores_[g];
    const BlockImage::Group& from = image.groups[g];
    const int64_t values = store.value_in_key ? 0 : store.value_dim;
    require(from.rows >= 0 && from.rows <= (store.heads > 0 ? capacity_ : 0) &&
                static_cast<int64_t>(from.keys.size()) == from.rows * store.heads * store.key_dim &&
                static_cast<int64_t>(from.values.size()) == from.rows * store.heads * values,
            ErrorCode::kData, "{}: the block's rows of KV group {} do not fit the model", what, g);
  }
  for (size_t g = 0; g < stores_.size(); ++g) {
    Store& store = stores_[g];
    store.rows = image.groups[g].rows;
    store.appended = 0;
    std::copy(image.groups[g].keys.begin(), image.groups[g].keys.end(), store.keys.begin());
    std::copy(image.groups[g].values.begin(), image.groups[g].values.end(), store.values.begin());
  }
}

int64_t BlockKv::bytes() const {
  size_t total = 0;
  for (const Store& store : stores_) total += (store.keys.size() + store.values.size()) * 4;
  return static_cast<int64_t>(total);
}

}  // namespace ashlar
