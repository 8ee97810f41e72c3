#include "engine/cache/raw_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace ashlar {

RawRows::RawRows(const KvGroup& group, int64_t heads, int64_t page_rows, PagePool& pool)
    : shape_{group.heads,
             heads,
             group.key_dim,
             group.value_dim,
             group.value_in_key,
             page_rows,
             heads * group.entry_width()},
      pool_(&pool) {}

RawRows::~RawRows() {
  if (page_) pool_->give(page_);
}

RawRows::RawRows(RawRows&& other) noexcept
    : shape_(other.shape_),
      pool_(other.pool_),
      page_(std::exchange(other.page_, {})),
      staging_(std::exchange(other.staging_, {})),
      staged_(std::exchange(other.staged_, false)),
      rows_(std::exchange(other.rows_, 0)) {}

RawRows::RawRows(const RawRows& other, PagePool& pool)
    : shape_(other.shape_), pool_(&pool), page_(other.page_), rows_(other.rows_) {
  if (page_) pool_->share(page_);
}

RawRows RawRows::fork(PagePool& pool) const {
  ASHLAR_CHECK(!staged_);
  return {*this, pool};
}

int64_t RawRows::pages_for(int64_t more) const {
  if (more == 0 && !staged_) return 0;
  return !page_ || pool_->arena().owners(page_) > 1 ? 1 : 0;
}

// Where rows may be written; what is there stays.
float* RawRows::writable() {
  if (staged_) return staging_.data();
  page_ = page_ ? pool_->own(page_) : pool_->take(page_bytes());
  return reinterpret_cast<float*>(pool_->arena().writable(page_));
}

const float* RawRows::base() const {
  if (staged_) return staging_.data();
  if (!page_) return nullptr;
  return reinterpret_cast<const float*>(pool_->arena().address(page_));
}

void RawRows::append(int64_t rows, const float* keys, const float* values, int64_t head_begin) {
  if (rows_ + rows > shape_.page_rows) {
    std::vector<float> staging(static_cast<size_t>((rows_ + rows) * shape_.width));
    if (rows_ > 0) std::copy_n(base(), rows_ * shape_.width, staging.data());
    staging_ = std::move(staging);
    staged_ = true;
  }
  float* out = writable() + rows_ * shape_.width;
  const int64_t key_width = shape_.heads * shape_.key_dim, value_width = shape_.width - key_width;
  for (int64_t r = 0; r < rows; ++r, out += shape_.width) {
    std::copy_n(keys + (r * shape_.all_heads + head_begin) * shape_.key_dim, key_width, out);
    if (shape_.value_in_key) continue;
    std::copy_n(values + (r * shape_.all_heads + head_begin) * shape_.value_dim, value_width,
                out + key_width);
  }
  rows_ += rows;
}

FloatRows RawRows::from(int64_t first) const {
  const float* row = base() + first * shape_.width;
  return {row, shape_.value_in_key ? nullptr : row + shape_.heads * shape_.key_dim, shape_.width,
          shape_.width};
}

void RawRows::truncate(int64_t rows) {
  ASHLAR_CHECK(rows >= 0 && rows <= rows_);
  rows_ = rows;
}

void RawRows::drop_front(int64_t rows) {
  ASHLAR_CHECK(rows >= 0 && rows <= rows_);
  if (rows == 0) return;
  rows_ -= rows;
  if (rows_ == 0) return;  // nothing to move, so a shared page needs no copy
  float* raw = writable();
  std::memmove(raw, raw + rows * shape_.width, static_cast<size_t>(4 * rows_ * shape_.width));
}

void RawRows::drop_in_order(std::span<const int64_t> rows) {
  if (rows.empty()) return;
  float* raw = writable();
  int64_t to = rows.front();
  auto next = rows.begin();
  for (int64_t row = to; row < rows_; ++row) {
    if (next != rows.end() && *next == row) {
      ++next;
      continue;
    }
    std::memmove(raw + to++ * shape_.width, raw + row * shape_.width,
                 static_cast<size_t>(4 * shape_.width));
  }
  rows_ = to;
}

void RawRows::settle() {
  if (staged_) {
    ASHLAR_CHECK_LE(rows_, shape_.page_rows);
    const std::vector<float> staging = std::exchange(staging_, {});
    staged_ = false;
    if (rows_ > 0) std::copy_n(staging.data(), rows_ * shape_.width, writable());
  }
  if (rows_ == 0 && page_) pool_->give(std::exchange(page_, {}));
}

void RawRows::view(int64_t head, int64_t first, KvHeadView& view) const {
  const float* row = base();
  if (row == nullptr) return;
  row += first * shape_.width;
  view.raw_keys = row + head * shape_.key_dim;
  view.raw_values = shape_.value_in_key
                        ? view.raw_keys
                        : row + shape_.heads * shape_.key_dim + head * shape_.value_dim;
  view.raw_key_stride = view.raw_value_stride = shape_.width;
}

std::vector<float> RawRows::image() const {
  ASHLAR_CHECK(!staged_);
  if (rows_ == 0) return {};
  return {base(), base() + rows_ * shape_.width};
}

void RawRows::load(std::span<const float> image) {
  ASHLAR_CHECK_EQ(rows_, 0);
  rows_ = static_cast<int64_t>(image.size()) / shape_.width;
  ASHLAR_CHECK_LE(rows_, shape_.page_rows);
  if (rows_ > 0) std::copy(image.begin(), image.end(), writable());
}

}  // namespace ashlar
