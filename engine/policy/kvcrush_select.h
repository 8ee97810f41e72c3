// KVCrush (Jha et al., arXiv 2503.00022): of the rows that a score would drop, keep a few that
// stand for the rest. A row (or a page of P rows) is described by the bits "is among the better
// half of the candidates", its distance is the Hamming distance to an anchor, and the
// representatives are rows spread evenly over the order of distance. Any score serves; nothing here
// knows a cache or a policy.
//
// The paper's text was not at hand; the steps follow the two public implementations, which differ:
// vLLM's (pull request 47967: a bit per KV head and token) and OpenVINO GenAI's (`kvcrush.cpp`: a
// bit per token, on scores summed over heads). Both are here as `CrushFeature`. One call goes
//   middle     the candidates, rows [sink, rows − recent); B = budget − sink − recent of them stay
//   pages      P consecutive candidates from the oldest on; the newest page may be short and is
//              padded with zero scores and zero bits (P = 1: token level)
//   split      w = ⌊B / P⌋ whole pages, of which ⌊round(B·ratio) / P⌋ but at least one, if ratio >
//   0
//              and w > 0, are representatives
//   important  the pages with the largest sums of scores
//   bits       1 for the better ⌊C/2⌋ of the C candidates, per head or of the sums
//   anchor     see CrushAnchor; over all pages of the middle
//   order      the pages that are not important by distance to the anchor, ascending
//   ranks      see CrushRanks
//   rest       rows that fill the budget when whole pages do not: P does not divide B, or the short
//              page was chosen. They are the best by score among the rows not yet kept, one by one,
//              and count as important. So exactly `budget` rows are kept, always.
// Ties. Every order here is ascending with the older first: of equal scores the older is the worse
// (dropped first, bit 0), as in the other policies; of equal distances the older comes first.
// A score that is not a number counts as −∞; so does a sum that is none.
//
// Deviations, on purpose, from what the two implementations do:
// - A row is never kept twice. vLLM's excludes the important pages of KV head 0 only from the
//   representatives of all heads, so other heads can hold a page twice and double its weight.
// - The budget is a total. OpenVINO's representatives come on top of its maximum cache size.
// - kSpread reaches both ends. OpenVINO's every ⌊m/k⌋-th of m pages never picks the last
//   m − 1 − (k−1)⌊m/k⌋, those farthest from the anchor; and with m = k + 1, the only case that
//   arises when a full cache grows by a page, it drops just the farthest one, whatever the scores
//   say. kStep is that rule, kept so that the rest can be compared with OpenVINO's decision for
//   decision.
// - kSpread rounds to the nearest rank; vLLM's truncates, which for m = k + 1 always drops the last
//   but one. One representative alone is the median; both implementations take the nearest page.
// - An even split at every bit makes the mean anchor all zeros in both, and here: majority is
// strict.
// - Random anchors come from the counter-based generator: a function of (seed, draw), no hidden
// state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ashlar {

/// What the bits of a row are.
enum class CrushFeature {
  kHeadBits,  ///< one per KV head, of its own scores: P·heads bits per page, bit r·heads + h
  kPageBits,  ///< one, of the row's importance: P bits per page
};

/// The point that distances are measured from; a majority counts pages, bit by bit, and is strict.
enum class CrushAnchor {
  kZeros,
  kOnes,
  kMean,         ///< 1 where more than half of the pages have 1
  kInverseMean,  ///< 1 where fewer than half of the pages have 1
  kAlternate,    ///< 1 at odd bits
  kRandom,       ///< of (seed, draw)
};

/// Which k of m pages in order of distance are representatives.
enum class CrushRanks {
  kSpread,  ///< i·(m−1)/(k−1) rounded half up, i < k; the median ⌊(m−1)/2⌋ for k = 1
  kStep,    ///< i·⌊m/k⌋: OpenVINO's, never the far tail
};

/// One lane at one moment. Rows are in order of position.
struct CrushRequest {
  int64_t rows = 0;
  int64_t heads = 1;              ///< rows of `scores`: KV heads, or 1 for sums over them
  std::span<const float> scores;  ///< [heads][rows], larger is more important
  /// [rows]: what important rows are chosen by; empty: the scores summed over heads in double. For
  /// a lane of one KV head, whose rows compete among themselves but are described by all heads.
  std::span<const float> importance;
  int64_t sink = 0;            ///< first rows that stay in any case
  int64_t recent = 0;          ///< last rows that stay in any case
  int64_t page = 1;            ///< P, rows that are chosen together
  int64_t budget = 0;          ///< rows kept in all: protected, important and representatives
  double representatives = 0;  ///< share of budget − sink − recent, in [0, 1]
  CrushFeature feature = CrushFeature::kHeadBits;
  CrushAnchor anchor = CrushAnchor::kMean;
  CrushRanks ranks = CrushRanks::kSpread;
  uint64_t seed = 0;  ///< for kRandom: of the run
  uint64_t draw = 0;  ///< for kRandom: of this selection, such as the newest row's position
};

enum class CrushRole : uint8_t { kDropped, kProtected, kImportant, kRepresentative };

struct CrushSelection {
  std::vector<int64_t> keep;     ///< min(budget, rows) indices of rows, ascending
  std::vector<CrushRole> roles;  ///< [rows]
};

/// Which rows stay. All of them if the budget allows. Throws Error(kRequest) if a budget below
/// `rows` is smaller than sink + recent, or `representatives` is not in [0, 1]; Error(kInternal) if
/// sizes do not fit together. Time O(heads · rows), whatever the scores.
CrushSelection select_crush(const CrushRequest& request);

// The steps, for tests and for looking inside.

/// The middle's pages as bits: page p is words [p·words, (p+1)·words) of `packed`, bit i of it is
/// bit i mod 64 of word i / 64, unused bits are zero.
struct CrushBits {
  int64_t pages = 0;
  int64_t bits = 0;   ///< per page
  int64_t words = 0;  ///< per page
  std::vector<uint64_t> packed;
  std::vector<int64_t> ones;  ///< [bits]: pages that have 1
};

CrushBits crush_bits(const CrushRequest& request);
/// select_crush with the bits of the middle made before: the lanes of one group's KV heads share
/// head bits while their rows are the same, so one crush_bits serves all of them.
CrushSelection select_crush(const CrushRequest& request, const CrushBits& bits);
/// Words of the anchor, as those of a page.
std::vector<uint64_t> crush_anchor(const CrushBits& pages, const CrushRequest& request);
/// Hamming distance of every page.
std::vector<int64_t> crush_distances(const CrushBits& pages, std::span<const uint64_t> anchor);
/// k different ranks below m, ascending; 0 ≤ k ≤ m.
std::vector<int64_t> crush_ranks(int64_t m, int64_t k, CrushRanks ranks);

}  // namespace ashlar
