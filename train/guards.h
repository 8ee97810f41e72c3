#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "core/base/node.h"

namespace ashlar {

enum class GuardAction {
  kApply,   ///< the step is taken
  kSkip,    ///< its samples are passed over, weights stay
  kRewind,  ///< back to the newest checkpoint, on with the samples behind this step's
  kStop,    ///< the run ends with an error
};

/// What happens when a step's loss or gradient is not what it should be.
struct GuardConfig {
  GuardAction non_finite = GuardAction::kStop;
  GuardAction spike = GuardAction::kApply;  ///< apply: spikes are not looked for
  int64_t window = 128;                     ///< accepted steps that a spike is measured against
  double z = 6;        ///< standard deviations above their mean that make a spike
  int64_t limit = 10;  ///< interventions in a row after which the run stops
  /// Every so many steps the gradient is computed twice and compared bit for bit: a difference is
  /// a fault of the machine. 0: never.
  int64_t replay_every = 0;
};

GuardConfig read_guards(const Node& node);
Node to_node(const GuardConfig& config);

/// Judges steps by loss and gradient norm, which are the same on all ranks, so all come to the same
/// verdict. A spike is a value more than z standard deviations above the mean of the last `window`
/// accepted ones (as llm.c and OLMo-core do); fewer than `window` are not judged.
class Guard {
 public:
  explicit Guard(const GuardConfig& config) : config_(config) {}

  struct Verdict {
    GuardAction action = GuardAction::kApply;
    std::string reason;  ///< empty when the step is taken
  };
  /// Interventions count as "in a row" until a step is taken that is no earlier than the last bad
  /// one: the steps that a rewind repeats prove nothing, or it could go back for ever.
  Verdict judge(int64_t step, double loss, double grad_norm);
  /// What a checkpoint keeps, and back; interventions in a row are kept over a rewind.
  Node state() const;
  void restore(const Node& state);

 private:
  struct Window {
    std::deque<double> values;
    double z_of(double value) const;
  };
  Verdict intervene(int64_t step, GuardAction action, std::string reason);

  GuardConfig config_;
  Window losses_, norms_;
  int64_t in_a_row_ = 0;
  int64_t bad_step_ = 0;  // the last one
};

}  // namespace ashlar
