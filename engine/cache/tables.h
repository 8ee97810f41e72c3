#pragma once

#include <iterator>
#include <vector>

#include "core/base/checked.h"

namespace ashlar {

/// Gives a table that is to hold `n` elements room for the next multiple of `unit`, where it has
/// too little or more than twice that: so its bytes depend on what it holds, not on how it came
/// there.
template <typename T>
void fit_table(std::vector<T>& table, int64_t n, int64_t unit) {
  const auto wanted = static_cast<size_t>(round_up(n, unit));
  if (table.capacity() >= static_cast<size_t>(n) && table.capacity() <= 2 * wanted) return;
  std::vector<T> fitted;
  fitted.reserve(wanted);
  fitted.insert(fitted.end(), std::make_move_iterator(table.begin()),
                std::make_move_iterator(table.end()));
  table.swap(fitted);
}

/// Gives a table `n` elements, new ones 0; it makes room as fit_table does, but keeps what it has.
template <typename T>
void resize_table(std::vector<T>& table, int64_t n, int64_t unit) {
  if (n > static_cast<int64_t>(table.capacity())) fit_table(table, n, unit);
  table.resize(static_cast<size_t>(n));
}

/// A copy with as much room as the original has, so that a fork's bytes are those of its text
/// alone.
template <typename T>
std::vector<T> copy_table(const std::vector<T>& table) {
  std::vector<T> copy;
  copy.reserve(table.capacity());
  copy.assign(table.begin(), table.end());
  return copy;
}

inline constexpr int64_t kTableRows = 64;  ///< unit of what is kept per row
inline constexpr int64_t kTablePages = 8;  ///< unit of what is kept per page

}  // namespace ashlar
