#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/match.h"

namespace ashlar::cli {

/// A plan beside another run's: what makes this one cost as much.
struct PlanMatch {
  Plan other;
  int64_t steps = 0;  ///< of this run, for the other's FLOPs
  std::optional<ScaledModel> scaled;
};

/// Keys outsiders rely on: parameters_total, parameters_body, kv_bytes_per_token, flops_per_token
/// (training, forward and backward); the rest of what the table shows lies beside them.
Node plan_node(const Plan& plan, const PlanMatch* match);
/// The table of a terminal.
std::string plan_table(const Plan& plan, const PlanMatch* match);

}  // namespace ashlar::cli
