#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "engine/policy/kvcrush_select.h"

namespace ashlar::test {

inline constexpr CrushAnchor kAnchors[] = {CrushAnchor::kZeros,     CrushAnchor::kOnes,
                                           CrushAnchor::kMean,      CrushAnchor::kInverseMean,
                                           CrushAnchor::kAlternate, CrushAnchor::kRandom};

class Draw {
 public:
  explicit Draw(uint64_t seed) : rng_(seed) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(rng_.below(next_++, static_cast<uint64_t>(bound)));
  }
  float unit() { return static_cast<float>(rng_.uniform(next_++)); }

 private:
  Philox rng_;
  uint64_t next_ = 0;
};

inline constexpr int64_t kStyles = 12;

/// Scores of one head, in a style that is hard for something.
inline float draw_score(Draw& draw, int64_t style, int64_t row) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = NAN;
  switch (style) {
    case 0:
      return draw.unit();
    case 1:
      return static_cast<float>(draw.below(3));  // ties
    case 2:
      return 0.125f;  // all equal
    case 3:
      return draw.below(2) == 0 ? 0.0f : -0.0f;  // zeros of both signs
    case 4:
      return draw.below(3) == 0 ? kNan : draw.unit() - 0.5f;
    case 5:
      return kNan;
    case 6:
      return draw.unit() - 0.5f;  // negative ones, as of cosines
    case 7:
      return static_cast<float>(row);  // the newer the better
    case 8:
      return -static_cast<float>(row);  // the older the better
    case 9:
      return std::ldexp(draw.unit(), static_cast<int>(draw.below(250)) - 140);  // denormals too
    case 10:
      return draw.below(4) == 0 ? kNan : draw.below(2) == 0 ? kInf : -kInf;
    default:
      return draw.below(2) == 0 ? draw.unit() : draw.below(2) == 0 ? kInf : -kInf;
  }
}

/// A request with what its spans see.
struct Owned {
  std::vector<float> scores, importance;
  CrushRequest request;

  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  void draw_scores(Draw& draw, bool own_importance) {
    for (int64_t h = 0; h < request.heads; ++h) {
      const int64_t style = draw.below(kStyles);
      for (int64_t row = 0; row < request.rows; ++row)
        scores.push_back(draw_score(draw, style, row));
    }
    if (own_importance) {
      const int64_t style = draw.below(kStyles);
      for (int64_t row = 0; row < request.rows; ++row) {
        importance.push_back(draw_score(draw, style, row));
      }
    }
    request.scores = scores;
    request.importance = importance;
  }
};

inline void draw_request(Draw& draw, Owned& out) {
  CrushRequest& q = out.request;
  q.rows = draw.below(90);
  q.heads = draw.below(8) == 0 ? 60 + draw.below(20) : 1 + draw.below(4);
  q.sink = std::min(q.rows, draw.below(6));
  q.recent = std::min(q.rows - q.sink, draw.below(12));
  q.page = draw.below(2) == 0 ? 1 : draw.below(8) == 0 ? 60 + draw.below(90) : 1 + draw.below(9);
  q.budget = q.sink + q.recent + draw.below(q.rows - q.sink - q.recent + 2);
  q.representatives =
      draw.below(4) == 0 ? static_cast<double>(draw.below(2)) : static_cast<double>(draw.unit());
  q.feature = draw.below(2) == 0 ? CrushFeature::kHeadBits : CrushFeature::kPageBits;
  q.anchor = kAnchors[draw.below(6)];
  q.ranks = draw.below(3) == 0 ? CrushRanks::kStep : CrushRanks::kSpread;
  q.seed = static_cast<uint64_t>(draw.below(1000));
  q.draw = static_cast<uint64_t>(draw.below(1000));
  out.draw_scores(draw, draw.below(3) == 0);
}

inline std::string say(const CrushRequest& q) {
  return fmt::format(
      "rows {} heads {} sink {} recent {} page {} budget {} representatives {} feature {} anchor "
      "{} "
      "ranks {} own importance {}",
      q.rows, q.heads, q.sink, q.recent, q.page, q.budget, q.representatives,
      static_cast<int>(q.feature), static_cast<int>(q.anchor), static_cast<int>(q.ranks),
      !q.importance.empty());
}

inline int64_t count(const CrushSelection& s, CrushRole role) {
  return std::count(s.roles.begin(), s.roles.end(), role);
}

inline std::string letters(std::span<const CrushRole> roles) {
  std::string out;
  for (const CrushRole role : roles) out += "-PIR"[static_cast<int>(role)];
  return out;
}

/// Roles of candidates, one letter per page.
inline std::string page_letters(const CrushRequest& q, const CrushSelection& s) {
  const std::string all = letters(s.roles);
  std::string out;
  for (int64_t i = q.sink; i < q.rows - q.recent; i += q.page) out += all[static_cast<size_t>(i)];
  return out;
}

}  // namespace ashlar::test
