#include "engine/cache/row_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

RowStore::RowStore(const KvPageShape& shape, PagePool& pool)
    : shape_(shape), pool_(&pool), page_bytes_(kv_page_bytes(shape)) {}

RowStore::~RowStore() {
  for (const PageId page : pages_) pool_->give(page);
}

RowStore::RowStore(RowStore&& other) noexcept
    : shape_(other.shape_),
      pool_(other.pool_),
      page_bytes_(other.page_bytes_),
      pages_(std::exchange(other.pages_, {})),
      addresses_(std::exchange(other.addresses_, {})),
      rows_(std::exchange(other.rows_, 0)) {}

RowStore RowStore::fork(PagePool& pool) const {
  RowStore copy(shape_, pool);
  copy.adopt(pages_, rows_);
  return copy;
}

void RowStore::adopt(std::span<const PageId> pages, int64_t rows) {
  ASHLAR_CHECK(rows_ == 0 && pages_.empty());
  ASHLAR_CHECK_EQ(static_cast<int64_t>(pages.size()), ceil_div(rows, shape_.page_rows));
  for (const PageId page : pages) {
    pool_->share(page);
    add_page(page);
  }
  rows_ = rows;
}

void RowStore::add_page(PageId page) {
  fit_tables(static_cast<int64_t>(pages_.size()) + 1);
  pages_.push_back(page);
  addresses_.push_back(pool_->arena().address(page));
}

void RowStore::fit_tables(int64_t pages) {
  fit_table(pages_, pages, kTablePages);
  fit_table(addresses_, pages, kTablePages);
}

int64_t RowStore::table_bytes() const {
  return static_cast<int64_t>(pages_.capacity() * sizeof(PageId) +
                              addresses_.capacity() * sizeof(const std::byte*));
}

int64_t RowStore::pages_for(int64_t more) const {
  const auto held = static_cast<int64_t>(pages_.size());
  const int64_t fresh = std::max<int64_t>(0, ceil_div(rows_ + more, shape_.page_rows) - held);
  const bool open = more > 0 && rows_ % shape_.page_rows != 0;
  return fresh + (open && pool_->arena().owners(pages_.back()) > 1 ? 1 : 0);
}

int64_t RowStore::shared_pages() const {
  return std::count_if(pages_.begin(), pages_.end(),
                       [&](PageId page) { return pool_->arena().owners(page) > 1; });
}

std::byte* RowStore::writable(int64_t page) {
  const auto i = static_cast<size_t>(page);
  pages_[i] = pool_->own(pages_[i]);
  std::byte* address = pool_->arena().writable(pages_[i]);
  addresses_[i] = address;
  return address;
}

void RowStore::append(int64_t rows, const FloatRows& from) {
  for (int64_t done = 0; done < rows;) {
    const int64_t in_page = rows_ % shape_.page_rows;
    if (in_page == 0) add_page(pool_->take(page_bytes_));
    const int64_t n = std::min(rows - done, shape_.page_rows - in_page);
    const float* values = from.values == nullptr ? nullptr : from.values + done * from.value_stride;
    std::byte* page = writable(rows_ / shape_.page_rows);
    const float* keys = from.keys + done * from.key_stride;
    if (shape_.channelwise) {
      zip_encode(shape_, page, in_page, n, keys, from.key_stride, values, from.value_stride,
                 from.channels);
    } else {
      kv_page_encode(shape_, page, in_page, n, keys, from.key_stride, values, from.value_stride);
    }
    rows_ += n;
    done += n;
  }
}

void RowStore::decode(int64_t first, int64_t rows, float* keys, float* values) const {
  const int64_t key_width = shape_.heads * shape_.key_dim;
  const int64_t value_width = shape_.value_in_key ? 0 : shape_.heads * shape_.value_dim;
  ASHLAR_CHECK_LE(first + rows, rows_);
  for (int64_t done = 0; done < rows;) {
    const int64_t row = first + done, in_page = row % shape_.page_rows;
    const int64_t n = std::min(rows - done, shape_.page_rows - in_page);
    kv_page_decode(shape_, addresses_[static_cast<size_t>(row / shape_.page_rows)], in_page, n,
                   keys + done * key_width, key_width,
                   value_width == 0 ? nullptr : values + done * value_width, value_width);
    done += n;
  }
}

void RowStore::copy_row(int64_t from, int64_t to) {
  std::byte* page = writable(to / shape_.page_rows);
  kv_page_copy_row(shape_, addresses_[static_cast<size_t>(from / shape_.page_rows)],
                   from % shape_.page_rows, page, to % shape_.page_rows);
}

void RowStore::truncate(int64_t rows) {
  ASHLAR_CHECK(rows >= 0 && rows <= rows_);
  const auto pages = static_cast<size_t>(ceil_div(rows, shape_.page_rows));
  for (; pages_.size() > pages; pages_.pop_back(), addresses_.pop_back()) {
    pool_->give(pages_.back());
  }
  fit_tables(static_cast<int64_t>(pages_.size()));
  rows_ = rows;
}

void RowStore::drop_front(int64_t rows) {
  if (rows == 0) return;
  if (rows % shape_.page_rows == 0) return drop_front_pages(rows / shape_.page_rows);
  for (int64_t row = rows; row < rows_; ++row) copy_row(row, row - rows);
  truncate(rows_ - rows);
}

void RowStore::drop_front_pages(int64_t pages) {
  ASHLAR_CHECK_LE(pages * shape_.page_rows, rows_);
  for (int64_t p = 0; p < pages; ++p) pool_->give(pages_[static_cast<size_t>(p)]);
  pages_.erase(pages_.begin(), pages_.begin() + pages);
  addresses_.erase(addresses_.begin(), addresses_.begin() + pages);
  rows_ -= pages * shape_.page_rows;
}

// Pages go before others come, so that those take their places in the reserve.
void RowStore::choose_pages(std::span<const PageChoice> pages, ThreadPool* threads) {
  ASHLAR_CHECK_EQ(rows_, static_cast<int64_t>(pages_.size()) * shape_.page_rows);
  std::vector<PageId> chosen;
  std::vector<const std::byte*> addresses;
  fit_table(chosen, std::ssize(pages), kTablePages);
  fit_table(addresses, std::ssize(pages), kTablePages);
  int64_t next = 0;  // held page that is neither given back nor kept yet
  const auto give_until = [&](int64_t end) {
    for (; next < end; ++next) pool_->give(pages_[static_cast<size_t>(next)]);
  };
  for (const PageChoice& page : pages) {
    if (page.held < 0) continue;
    give_until(page.held);
    ASHLAR_CHECK_EQ(page.held, next);
    ++next;
  }
  give_until(static_cast<int64_t>(pages_.size()));
  std::vector<size_t> read;  // places of those to be read
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].held >= 0) {
      chosen.push_back(pages_[static_cast<size_t>(pages[i].held)]);
      addresses.push_back(addresses_[static_cast<size_t>(pages[i].held)]);
    } else if (const std::byte* memory = pages[i].copy->in_place()) {
      chosen.push_back(pool_->lend(memory, page_bytes_));
      addresses.push_back(memory);
    } else {
      chosen.push_back(pool_->take(page_bytes_));
      addresses.push_back(pool_->arena().address(chosen.back()));
      read.push_back(i);
    }
  }
  // Before the copies are read: that may fail, and pages belong to somebody even then.
  pages_ = std::move(chosen);
  addresses_ = std::move(addresses);
  rows_ = static_cast<int64_t>(pages_.size()) * shape_.page_rows;
  const auto read_page = [&](int64_t n, int) {
    const size_t i = read[static_cast<size_t>(n)];
    std::byte* const to = pool_->arena().writable(pages_[i]);
    pages[i].copy->read({to, static_cast<size_t>(page_bytes_)});
  };
  if (threads != nullptr) {
    threads->parallel_for(std::ssize(read), read_page);
  } else {
    for (int64_t n = 0; n < std::ssize(read); ++n) read_page(n, 0);
  }
}

void RowStore::drop_in_order(std::span<const int64_t> slots) {
  if (slots.empty()) return;
  int64_t to = slots.front();
  auto next = slots.begin();
  for (int64_t row = to; row < rows_; ++row) {
    if (next != slots.end() && *next == row) {
      ++next;
      continue;
    }
    copy_row(row, to++);
  }
  truncate(to);
}

KvRun RowStore::run(int64_t head, int64_t first, int64_t rows) const {
  ASHLAR_CHECK_LE(first + rows, rows_);
  KvRun run = kv_page_run(shape_, head);
  run.pages = addresses_.data() + first / shape_.page_rows;
  run.first = first % shape_.page_rows;
  run.rows = rows;
  return run;
}

std::vector<std::byte> RowStore::image() const {
  std::vector<std::byte> out(pages_.size() * static_cast<size_t>(page_bytes_));
  for (size_t p = 0; p < pages_.size(); ++p) {
    std::byte* to = out.data() + p * static_cast<size_t>(page_bytes_);
    const int64_t rows =
        std::min(shape_.page_rows, rows_ - static_cast<int64_t>(p) * shape_.page_rows);
    if (rows == shape_.page_rows) {
      std::memcpy(to, addresses_[p], static_cast<size_t>(page_bytes_));
      continue;
    }
    for (int64_t r = 0; r < rows; ++r) kv_page_copy_row(shape_, addresses_[p], r, to, r);
  }
  return out;
}

void RowStore::load(std::span<const std::byte> image, int64_t rows) {
  ASHLAR_CHECK(rows_ == 0 && pages_.empty());
  const int64_t pages = ceil_div(rows, shape_.page_rows);
  ASHLAR_CHECK_EQ(static_cast<int64_t>(image.size()), pages * page_bytes_);
  for (int64_t p = 0; p < pages; ++p) {
    add_page(pool_->take(page_bytes_));
    std::memcpy(pool_->arena().writable(pages_.back()), image.data() + p * page_bytes_,
                static_cast<size_t>(page_bytes_));
  }
  rows_ = rows;
}

}  // namespace ashlar
