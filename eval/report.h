#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

/// One result of an evaluation: what `ashlar eval --json` prints.
struct EvalRow {
  std::string task;
  std::string metric;
  double value = 0;
  int64_t n = 0;             ///< tokens, or items, the value is over
  double low = 0, high = 0;  ///< 95 % interval; equal to value where there is none
  double seconds = 0;        ///< the task took, all of its metrics together
  int64_t kv_bytes = 0;      ///< largest cache of one text; 0: the scorer has none
  /// Everything the value depends on beside the model's weights.
  Node settings = Node::map();
};

/// [{task, metric, value, n, low, high, seconds, kv_bytes, settings}].
Node to_node(const std::vector<EvalRow>& rows);

/// A Markdown table of the rows, and below it each task's settings in one line.
std::string to_markdown(const std::vector<EvalRow>& rows);

}  // namespace ashlar
