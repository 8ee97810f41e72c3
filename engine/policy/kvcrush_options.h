#pragma once

#include <cstdint>
#include <string>

#include "engine/policy/kvcrush_select.h"

namespace ashlar {

/// What rows are important by in KVCrush.
enum class CrushScorer {
  kSnapKv,        ///< probabilities of the last w query rows before a selection, summed
  kH2o,           ///< of all query rows, summed
  kScissorhands,  ///< counts of those below 1/n in the last w query rows: the fewer the better
};

/// What `--kv-crush` says.
struct CrushOptions {
  CrushScorer scorer = CrushScorer::kSnapKv;
  double ratio = 0.25;  ///< share of representatives in what sinks and newest rows leave, [0, 1]
  CrushAnchor anchor = CrushAnchor::kMean;
  CrushFeature features = CrushFeature::kHeadBits;
  int64_t page = 1;  ///< rows that are chosen together

  bool operator==(const CrushOptions&) const = default;
};

/// "scorer=h2o,ratio=0.5,anchor=alternate,features=page,page=16", in any order, each at most once;
/// what is not named has its default. Pages are tokens and become ⌈tokens / block_length⌉ rows.
/// Throws Error(kRequest) naming `--kv-crush`, the item and what it can be.
CrushOptions read_crush(const std::string& text, int64_t block_length);

/// All of it in that form, pages in rows; read_crush(·, 1) gives the same options.
std::string write_crush(const CrushOptions& options);

/// What `--help` says about the form.
std::string crush_help();

}  // namespace ashlar
