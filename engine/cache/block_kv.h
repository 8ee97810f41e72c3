#pragma once

#include <span>
#include <vector>

#include "engine/cache/kv_store.h"
#include "models/spec/spec.h"

namespace ashlar {

/// The local cache of one block of a Block Transformer: P + L_B − 1 fp32 rows per group, emptied at
/// every block. Exempt from policies and codecs.
class BlockKv final : public KvStore {
 public:
  /// `groups`: all KvGroups of the model; only those with lifetime kBlock get storage.
  BlockKv(std::span<const KvGroup> groups, int64_t capacity);

  void append(int64_t group, const float* keys, const float* values, int64_t rows) override;
  void query_tiles(int64_t group, int64_t head, std::vector<QueryTile>& tiles) const override;
  KvHeadView view(int64_t group, int64_t head, const QueryTile& tile) const override;

  /// Rows every group holds once a step is over.
  int64_t rows() const;
  void clear();
  int64_t bytes() const;

 private:
  struct Store {
    int64_t heads = 0, key_dim = 0, value_dim = 0;
    int64_t rows = 0;
    int64_t appended = 0;
    std::vector<float> keys, values;
  };
  std::vector<Store> stores_;  // by group id; empty for other lifetimes
  int64_t capacity_;
};

}  // namespace ashlar
