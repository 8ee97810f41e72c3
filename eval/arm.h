#pragma once

#include <optional>
#include <string>

#include "core/base/node.h"

namespace ashlar {

/// One way of keeping the cache; an evaluation may compare several on the same texts.
struct Arm {
  std::string policy;           ///< empty where the scorer has no cache
  std::string budget;           ///< as asked for ("25%"); empty without a policy that evicts
  std::string codec;            ///< "q4", or "q4:q8" for keys and values
  bool full = false;            ///< the full cache, which the others are compared with
  Node settings = Node::map();  ///< what scores depend on beside the model

  /// "h2o 25% q4": its name in tables and logs.
  std::string label() const {
    std::string out = policy;
    for (const std::string& part : {budget, codec}) {
      if (!part.empty()) out += (out.empty() ? "" : " ") + part;
    }
    return out;
  }
};

/// A figure with its 95 % interval.
struct Interval {
  double value = 0;
  double low = 0, high = 0;
};

/// An arm beside the full cache, over the same resampled items.
struct Difference {
  Interval absolute;  ///< value − the full cache's, in the metric's unit
  /// value / the full cache's − 1; absent where that is zero, in the whole or in a resample.
  std::optional<Interval> relative;
};

/// What a row of an evaluation says of its arm.
struct ArmFigures {
  Arm arm;
  double mean_bytes = 0;         ///< of a text's cache when it has been read
  double mean_prompt_bytes = 0;  ///< when its prompt was in and the policy had acted
  /// Of the full cache's bytes, over the same texts; absent without a full cache.
  std::optional<double> share, prompt_share;
  std::optional<Difference> difference;  ///< absent without a full cache
  /// No other arm is as good in fewer bytes, or better in as many.
  bool pareto = false;
};

}  // namespace ashlar
