#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "eval/arm.h"

namespace ashlar {

/// One result of an evaluation: what `ashlar eval --json` prints.
struct EvalRow {
  std::string task;
  std::string metric;
  double value = 0;
  int64_t n = 0;                 ///< tokens, or items, the value is over
  double low = 0, high = 0;      ///< 95 % interval; equal to value where there is none
  double seconds = 0;            ///< the task took, all of its metrics together
  int64_t kv_bytes = 0;          ///< largest cache of one text; 0: the scorer has none
  int64_t kv_prompt_bytes = 0;   ///< likewise, when the prompt was in
  int64_t kv_shared_tokens = 0;  ///< of all of the task's texts, taken from texts before
  bool lower_is_better = false;
  std::optional<ArmFigures> arm = {};  ///< of rows made by evaluate() and evaluate_fidelity()
  /// Everything the value depends on beside the model's weights.
  Node settings = Node::map();
};

/// [{task, metric, value, n, low, high, better, policy, budget, codec, kv_bytes, kv_prompt_bytes,
/// kv_shared_tokens, kv_mean_bytes, kv_share, kv_prompt_share, pareto, difference, difference_low,
/// difference_high, relative, relative_low, relative_high, seconds, settings}]; null where there is
/// nothing to say.
Node to_node(const std::vector<EvalRow>& rows);

/// A Markdown table of the rows, and below it each task's settings in one line.
std::string to_markdown(const std::vector<EvalRow>& rows);

/// Quality against bytes: for every task and metric a Markdown table of its arms.
std::string arms_to_markdown(const std::vector<EvalRow>& rows);

}  // namespace ashlar
