#pragma once

#include "engine/policy/row_budget.h"

// What SnapKV, PyramidKV and SnapStream do alike: choose rows of a prompt by its last query rows.
//
// SnapKV (Li et al., arXiv 2404.14469): the probabilities of the last w query rows of the prompt,
// summed, are pooled over neighbouring rows; per KV head the rows of largest pooled score stay, and
// the newest ones.
// Choices: probabilities are summed over the query heads of a KV head and the readers of a group.
// Neighbours are rows next to each other by position among those held, newest rows excluded, sinks
// included, as the authors' code has it; an average divides by the pool's full size at the ends
// too.

namespace ashlar {

struct SnapKvOptions {
  int64_t window = 0;  ///< w, rows
  int64_t recent = 0;
  PoolKind pool = PoolKind::kAverage;
  int64_t pool_rows = 1;
};

/// The options with SnapKV's defaults: w = 32 tokens, but at most half of what the budget leaves
/// beside the sinks, as many newest rows, and an average over 5 rows. Throws Error(kRequest).
SnapKvOptions snapkv_options(const PolicyOptions& options, std::span<const KvGroup> governed);

PolicyNeeds snapkv_needs(const SnapKvOptions& options);

/// Pooled scores by slot; those of the newest `recent` rows are 0.
std::vector<double> pooled_scores(const LaneView& lane, const SnapKvOptions& options);

/// At the end of a prompt: drops all but `keep` rows, the unprotected ones of least pooled score.
void keep_best(const LaneView& lane, const RowBudget& rows, const SnapKvOptions& options,
               int64_t keep, LaneEdit& edit);

}  // namespace ashlar
