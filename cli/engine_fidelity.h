#pragma once

#include "cli/engine_scorer.h"
#include "eval/fidelity.h"

namespace ashlar::cli {

/// Sequences of one engine in step: one with each of the scorer's arms, one with a full fp32 cache.
/// Keeps a reference to `scorer`.
std::unique_ptr<FidelityProbe> make_fidelity_probe(EngineScorer& scorer);

}  // namespace ashlar::cli
