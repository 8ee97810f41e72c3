#pragma once

#include "engine/policy/policy_options.h"

namespace ashlar {

/// Options beside name, budget, sink and recent that a policy can use.
enum PolicyUses : unsigned {
  kUsesNothing = 0,
  kUsesWindow = 1,
  kUsesPool = 2,
  kUsesDrop = 4,
  kUsesLayers = 8,
  kUsesSeed = 16,
  kUsesAge = 32,
  kUsesCrush = 64,
  kUsesRecall = 128,
};

/// Throws Error(kRequest), naming the option and the reason, for one that is out of range or that a
/// policy of these `uses` could only ignore.
void check_policy_options(const PolicyOptions& options, unsigned uses);

}  // namespace ashlar
