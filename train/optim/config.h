#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/parameters.h"

// Optimizer, schedule and weight average of a run, as its configuration says them. No torch here.

namespace ashlar {

enum class OptimizerKind { kAdamW, kLion, kMuon };

/// arXiv 1711.05101, algorithm 2.
struct AdamWOptions {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool operator==(const AdamWOptions&) const = default;
};

/// What Muon multiplies an orthogonal update [rows, cols] by.
enum class MuonScale {
  kRms,       ///< 0.2·√max(rows, cols): elements as large as AdamW's (arXiv 2502.16982 §2.2)
  kOriginal,  ///< √max(1, rows/cols) (Keller Jordan)
};

/// Exceptions for the parameters whose names match.
struct ParameterGroup {
  std::string match;  ///< see glob_match
  std::optional<double> weight_decay;
  std::optional<double> lr_scale;
  bool operator==(const ParameterGroup&) const = default;
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double lr = 0;  ///< peak learning rate
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;       ///< AdamW
  double momentum = 0.95;  ///< Muon
  MuonScale scale = MuonScale::kRms;
  /// Of matrices and tables; of gains, biases and adapters only by a group.
  double weight_decay = 0.1;
  double clip = 1.0;                   ///< largest global gradient norm; 0: no clipping
  AdamWOptions adamw;                  ///< Muon: of everything but the matrices inside layers
  std::vector<ParameterGroup> groups;  ///< in order; a later one overrides an earlier one's keys
  /// Maximal update parametrization: d_model over the base width, of each stack. Empty: off.
  std::vector<double> width_ratios;
  bool operator==(const OptimizerConfig&) const = default;
};

/// How one parameter is updated.
struct ParameterPolicy {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double lr_scale = 1;  ///< of the schedule's learning rate
  double weight_decay = 0;
  bool operator==(const ParameterPolicy&) const = default;
};

/// By index into `specs`. Muon: linear maps inside layers, AdamW the rest. Width ratios m (arXiv
/// 2203.03466, table 3): linear maps and the head take lr/m with AdamW and Lion, and with Muon of
/// scale `rms`, whose updates are as large; `original` has the right scale by itself. Where lr is
/// divided, weight decay is multiplied by m, so that their product stays.
std::vector<ParameterPolicy> parameter_policies(const OptimizerConfig& config,
                                                std::span<const ParameterSpec> specs);

enum class ScheduleKind { kCosine, kWsd, kLinear, kConstant, kInverseSqrt };
enum class DecayShape {
  kLinear,  ///< 1 − share
  kSqrt,    ///< 1 − √share (arXiv 2405.18392)
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup_steps = 0;
  double final_ratio = 0.1;           ///< last learning rate over the peak; cosine, wsd, linear
  int64_t decay_steps = 0;            ///< wsd: how many of the last steps decay
  std::optional<int64_t> decay_from;  ///< wsd: last step at the peak, instead of decay_steps
  DecayShape shape = DecayShape::kLinear;
  bool operator==(const ScheduleConfig&) const = default;
};

/// Learning rate of step `step` (1-based) of `steps`, over the peak: linear warm-up, 1 at step
/// `warmup_steps`, then by kind:
/// cosine: half a cosine to final_ratio at the last step (arXiv 1608.03983, one cycle);
/// wsd: 1 until the decay begins, then `shape` to final_ratio at the last step;
/// linear: straight to final_ratio at the last step; constant: 1;
/// inverse_sqrt: √(warmup_steps / step).
double schedule_factor(const ScheduleConfig& config, int64_t steps, int64_t step);

/// Exponential moving average of the weights.
struct EmaConfig {
  double decay = 0.999;  ///< per update
  int64_t every = 1;     ///< steps from one update to the next
  bool warmup = false;   ///< decay of update t (from 1) is at most (1 + t) / (10 + t)
  bool operator==(const EmaConfig&) const = default;
};

/// Readers of `optimizer:`, `schedule:` (absent: cosine) and `ema:`. Throw Error(kRequest)
/// "file:line: key: reason", also for a group that matches none of `specs`, the parameters trained.
OptimizerConfig read_optimizer(const Node& node, std::span<const ParameterSpec> specs);
ScheduleConfig read_schedule(const Node* node, int64_t steps);
EmaConfig read_ema(const Node& node);

/// What reads back as the same.
Node optimizer_node(const OptimizerConfig& config);
Node schedule_node(const ScheduleConfig& config);
Node ema_node(const EmaConfig& config);

}  // namespace ashlar
