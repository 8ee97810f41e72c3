#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/node.h"
#include "engine/policy/kvcrush_options.h"

namespace ashlar {

/// How the scores of neighbouring rows are pooled (SnapKV, arXiv 2404.14469).
enum class PoolKind { kDefault, kNone, kAverage, kMax };

/// What a user asks for. `sink`, `recent` and `budget` mean the same in every policy; they,
/// `window` and `drop` are cache rows (a Block Transformer's row covers L_B tokens). What a method
/// cannot use must be left as it is here.
struct PolicyOptions {
  std::string name = "none";
  int64_t budget = 0;   ///< rows kept per lane once the prompt is in; ignored by "none"
  int64_t sink = 4;     ///< first rows of the text that are never dropped
  int64_t recent = -1;  ///< newest rows that are never dropped; −1: the policy's default
  int64_t window = -1;  ///< query rows that score: of a prompt's end, or of a history; −1: default
  PoolKind pool = PoolKind::kDefault;
  int64_t pool_rows = -1;  ///< rows pooled into one, odd; −1: the policy's default
  int64_t drop = -1;       ///< rows dropped at once when decoding passes the budget; −1: default
  /// How budgets differ between the governed groups: "uniform", "falling[:β]", "rising[:β]" or one
  /// weight per group, "3,2,1"; empty: the policy's default. Their mean stays `budget`.
  std::string layers = {};
  std::optional<uint64_t> seed = {};  ///< of what is drawn at random
  bool by_age = false;                ///< counts are divided by the rows that could have counted
  std::optional<CrushOptions> crush = {};  ///< of kvcrush; none: its defaults
  // Policies that recall pages.
  int64_t page_rows = 16;    ///< P of the cache (CacheOptions)
  int64_t topk = -1;         ///< rows, sinks and newest ones included; −1: default
  std::string digest = {};   ///< a digest's name, with its rows as in "cuboid_max:8"
  int64_t dense_groups = 0;  ///< first governed groups that keep everything
  int64_t select_every = 1;  ///< queries that share one selection

  bool operator==(const PolicyOptions&) const = default;
};

/// All of them by name: what a saved text belongs to.
Node describe(const PolicyOptions& options);

}  // namespace ashlar
