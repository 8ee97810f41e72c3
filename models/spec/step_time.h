#pragma once

#include <cstdint>

#include "models/spec/plan.h"

// A step's time from a model: the schedule of train/stage_runner.h and train/dist played through
// on two clocks, one of computation and one of each link.
//
// Computation: a piece takes FLOPs / (peak × utilisation) forward, twice that backward, once more
// where it is recomputed.
// Collectives: rings, as core/comm/simulated.h states them: k ranks, B bytes of the whole buffer:
//   all_gather, reduce_scatter  (k − 1)·(latency + B/k / bandwidth)
//   all_reduce                  2(k − 1)·(latency + B/k / bandwidth)
// one at a time on a link, in the order in which they are begun. Ranks of one node use the link
// inside, all other groups the link between nodes: the slowest edge of a ring through all of them.
// Schedule, s ranks sharing a copy, r copies, p passes:
//   ZeRO 0: one all_reduce over r of each unit's gradients, begun when the last backward pass is
//     through with it
//   ZeRO 1: the same with reduce_scatter over s, then all_reduce of the slice over r; the next
//     forward pass gathers each unit while the stage before runs
//   ZeRO 2: reduce_scatter in each of the p passes
//   ZeRO 3: as 2, and each unit is gathered in every forward and every backward pass, one stage
//     ahead
//   Muon: fp32 updates of every unit are gathered before the weights change
//   three small collectives a step (samples, losses, norm): latency alone
// What remains beside computation is exposed. Not modelled: optimizer and data, contention with
// other jobs, slow ranks, copies, computation slowed by communication.

namespace ashlar {

/// Throws Error(kRequest) when the ranks cannot be divided as `run` says.
StepTime step_time(const ModelSpec& spec, const RunShape& run, const PlanOptions& options);

}  // namespace ashlar
