// A lane whose pages come and go: attention reads the resident ones in the order of the text, so
// with all of them resident it reads what it would without a policy.

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/base/error.h"
#include "engine/cache/lane.h"
#include "engine/cache/tables.h"

namespace ashlar {

void Lane::add_filled_pages() {
  ASHLAR_CHECK(recall_.has_value() && raw_gone_ == 0);
  ASHLAR_CHECK_EQ(coded_.rows(), static_cast<int64_t>(coded_.pages().size()) * schedule_.page_rows);
  const std::span<const PageId> pages = coded_.pages();
  for (size_t i = recall_->resident().size(); i < pages.size(); ++i) {
    recall_->add(coded_.address(static_cast<int64_t>(i)));
  }
}

int64_t Lane::make_resident(std::span<const int32_t> pages, ThreadPool* threads) {
  ASHLAR_CHECK(recall_.has_value() && raw_gone_ == 0);
  const std::span<const int32_t> held = recall_->resident();
  ASHLAR_CHECK_EQ(held.size(), coded_.pages().size());
  if (std::ranges::equal(pages, held)) return 0;
  intact_ = false;
  std::vector<RowStore::PageChoice> choices;
  choices.reserve(pages.size());
  // A new table, so that its bytes are those of the rows it holds, whatever a prompt took.
  const int64_t raw = rows() - coded_.rows();
  std::vector<int32_t> positions;
  const int64_t chosen = std::ssize(pages) * schedule_.page_rows;
  fit_table(positions, chosen + raw, kTableRows);
  positions.resize(static_cast<size_t>(chosen));
  int32_t* to = positions.data();
  size_t at = 0;
  int64_t recalled = 0;
  for (const int32_t page : pages) {
    while (at < held.size() && held[at] < page) ++at;
    const bool is_held = at < held.size() && held[at] == page;
    choices.push_back(is_held ? RowStore::PageChoice{static_cast<int64_t>(at), nullptr}
                              : RowStore::PageChoice{-1, &recall_->backup(page)});
    recalled += is_held ? 0 : 1;
    std::iota(to, to + schedule_.page_rows, static_cast<int32_t>(page * schedule_.page_rows));
    to += schedule_.page_rows;
  }
  positions.insert(positions.end(), positions_.begin() + coded_.rows(), positions_.end());
  coded_.choose_pages(choices, threads);
  recall_->set_resident(pages);
  positions_ = std::move(positions);
  coded_before_ = coded_.rows();
  return recalled;
}

}  // namespace ashlar
