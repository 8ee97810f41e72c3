#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

/// One line of an evaluation: what `ashlar eval --json` prints.
struct EvalRow {
  std::string task;
  std::string metric;
  double value = 0;
  int64_t n = 0;             ///< tokens, or items, the value is over
  double low = 0, high = 0;  ///< 95 % interval; equal to value where there is none
};

/// [{task, metric, value, n, low, high}].
Node to_node(const std::vector<EvalRow>& rows);

}  // namespace ashlar
