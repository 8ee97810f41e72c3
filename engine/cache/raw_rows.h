#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/cache/page_pool.h"
#include "engine/cache/row_store.h"
#include "models/spec/spec.h"

namespace ashlar {

/// The newest rows of a lane, fp32: [row][keys of the lane's heads, then their values]. Between
/// steps they fit one page of P rows, which may be shared; during a step that brings more they lie
/// in a buffer.
class RawRows {
 public:
  RawRows(const KvGroup& group, int64_t heads, int64_t page_rows, PagePool& pool);
  ~RawRows();
  RawRows(RawRows&& other) noexcept;
  RawRows& operator=(RawRows&&) = delete;

  RawRows fork(PagePool& pool) const;

  int64_t rows() const { return rows_; }
  int64_t page_bytes() const { return 4 * shape_.page_rows * shape_.width; }
  int64_t table_bytes() const { return static_cast<int64_t>(4 * staging_.capacity()); }
  /// New pages that appending takes at most, a copy of a shared one included.
  int64_t pages_for(int64_t more) const;
  int64_t row_floats() const { return shape_.width; }

  /// Appends rows of heads [head_begin, head_begin + heads) of the group.
  void append(int64_t rows, const float* keys, const float* values, int64_t head_begin);
  /// Rows [first, rows()) for RowStore::append.
  FloatRows from(int64_t first) const;
  void truncate(int64_t rows);
  void drop_front(int64_t rows);
  void drop_in_order(std::span<const int64_t> rows);
  /// The step is over: at most P rows are left, and go back to the page; without rows there is
  /// none.
  void settle();

  /// The first key and value of head `head` of the lane, from row `first` on.
  void view(int64_t head, int64_t first, KvHeadView& view) const;

  std::vector<float> image() const;
  void load(std::span<const float> image);

 private:
  RawRows(const RawRows& other, PagePool& pool);
  float* writable();
  const float* base() const;

  struct Shape {
    int64_t all_heads, heads;  // of the group, of the lane
    int64_t key_dim, value_dim;
    bool value_in_key;
    int64_t page_rows;
    int64_t width;  // floats of a row
  };

  Shape shape_;
  PagePool* pool_;
  PageId page_;
  std::vector<float> staging_;  // in use if `staged_`
  bool staged_ = false;
  int64_t rows_ = 0;
};

}  // namespace ashlar
