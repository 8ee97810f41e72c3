// A lane by pages of positions: what texts that begin alike share.

#include "core/base/error.h"
#include "engine/cache/lane.h"

namespace ashlar {

int64_t Lane::shared_begin(int64_t n) const {
  return released(n * schedule_.page_rows) / schedule_.page_rows;
}

bool Lane::final_form(int64_t page, int64_t n) const {
  const int64_t row = page * schedule_.page_rows;
  return row < schedule_.sinks || row < schedule_.coded(n * schedule_.page_rows);
}

PageId Lane::page_at(int64_t page) const {
  ASHLAR_CHECK(intact_ && raw_.rows() == raw_before_);
  int64_t at = page - front_ / schedule_.page_rows;
  if (at < 0) return {};
  for (const RowStore* store : {&sinks_, &coded_, &late_}) {
    const auto pages = static_cast<int64_t>(store->pages().size());
    if (at < pages) return store->pages()[static_cast<size_t>(at)];
    at -= pages;
  }
  return {};
}

void Lane::adopt(int64_t n, const std::function<PageId(int64_t)>& page_of) {
  ASHLAR_CHECK_EQ(rows(), 0);
  const int64_t rows_per_page = schedule_.page_rows, begin = shared_begin(n);
  std::vector<PageId> sinks, coded, late;
  for (int64_t page = begin; page < n; ++page) {
    const bool precise = page * rows_per_page < schedule_.sinks;
    (precise ? sinks : final_form(page, n) ? coded : late).push_back(page_of(page));
  }
  const auto rows_of = [&](const std::vector<PageId>& pages) {
    return static_cast<int64_t>(pages.size()) * rows_per_page;
  };
  sinks_.adopt(sinks, rows_of(sinks));
  coded_.adopt(coded, rows_of(coded));
  late_.adopt(late, rows_of(late));
  front_ = begin * rows_per_page;
  for (int64_t p = front_; p < n * rows_per_page; ++p)
    positions_.push_back(static_cast<int32_t>(p));
  scores_.resize(this->rows());
  begin_step();
}

}  // namespace ashlar
