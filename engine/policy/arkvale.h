#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/policy/policy.h"

namespace ashlar {

/// A budget of ArkVale in pages (engine/policy/arkvale.cpp).
struct ArkvaleBudget {
  int64_t rows = 0;   ///< the budget as it was given: a text that is no longer keeps everything
  int64_t pages = 0;  ///< resident at most, the one under way included
  int64_t sinks = 0;  ///< first pages, always resident
  /// Newest pages, always resident, the one under way included; at least 1.
  int64_t window = 0;
  int64_t ranked = 0;  ///< best other pages, resident for the query that ranks them
  int64_t every = 1;   ///< a query at a multiple of it selects
};

/// The numbers that `options` stand for. Throws Error(kRequest) naming the option and the reason.
ArkvaleBudget arkvale_budget(const PolicyOptions& options, std::span<const KvGroup> governed);

/// The resident pages from the query on, ascending: PagesView with scores.
std::vector<int32_t> arkvale_pages(const ArkvaleBudget& budget, const PagesView& view);

}  // namespace ashlar
