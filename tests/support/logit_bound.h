#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "models/spec/spec.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {

/// Roundings of one fp32 logit: every sum on the longest path through the network. `c` counts the
/// sides that round in an order of their own, twice each.
template <typename Real>
Bound logit_bound(const ModelSpec& spec, const std::vector<Real>& logits, double c = 2) {
  double terms = 0, norm = 0;
  for (const StackSpec& s : spec.stacks) {
    terms += static_cast<double>(2 * s.d_model);
    for (const LayerSpec& l : s.layers) {
      terms += static_cast<double>(3 * s.d_model + l.ffn.d_ff +
                                   l.attention.heads * l.attention.head_dim);
    }
  }
  for (Real x : logits) norm = std::max(norm, std::abs(static_cast<double>(x)));
  return reordered<float>(terms, norm, c);
}

}  // namespace ashlar::test
