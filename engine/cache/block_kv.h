#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/cache/kv_store.h"
#include "models/spec/spec.h"

namespace ashlar {

/// What the cache of one block holds: by group id, empty for other lifetimes.
struct BlockImage {
  struct Group {
    int64_t rows = 0;
    std::vector<float> keys, values;  ///< [rows, heads, dim]; no values where they lie in the keys
    bool operator==(const Group&) const = default;
  };
  std::vector<Group> groups;
  bool operator==(const BlockImage&) const = default;
};

/// The cache of one block: fp32 rows, emptied at every block. The token decoder's has
/// local_positions rows per group, and L_B context rows per cross-attention group; the block
/// encoder's holds the rows of one layer. Exempt from policies and codecs.
class BlockKv final : public KvStore {
 public:
  /// `groups`: KvGroups with dense ids; only those with lifetime kBlock get storage.
  BlockKv(std::span<const KvGroup> groups, int64_t capacity);

  void append(int64_t group, const float* keys, const float* values, int64_t rows) override;
  void query_tiles(int64_t group, int64_t head, std::vector<QueryTile>& tiles) const override;
  void full_tiles(int64_t group, int64_t rows, std::vector<QueryTile>& tiles) const override;
  KvHeadView view(int64_t group, int64_t head, const QueryTile& tile) const override;

  /// Rows every group but those of cross-attention holds once a step is over.
  int64_t rows() const;
  void clear();
  int64_t bytes() const;

  BlockImage image() const;
  /// Becomes `image`. Throws Error(kData) naming `what` unless it can be this cache's.
  void load(const BlockImage& image, const std::string& what);

 private:
  struct Store {
    int64_t heads = 0, key_dim = 0, value_dim = 0;
    bool value_in_key = false;
    int64_t rows = 0;
    int64_t appended = 0;
    std::vector<float> keys, values;
  };
  std::vector<Store> stores_;  // by group id; empty for other lifetimes
  int64_t capacity_;
};

}  // namespace ashlar
