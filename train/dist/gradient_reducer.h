#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "core/comm/communicator.h"
#include "train/dist/groups.h"
#include "train/dist/unit_layout.h"

namespace ashlar {

/// Sums the gradients of a step's micro-batches over passes and ranks, each unit as soon as the
/// backward pass is through with it. In pass p rank r of n computes micro-batch p·n + r.
///
/// ZeRO stages 0 and 1 keep whole gradients and communicate in the last pass only; stages 2 and 3
/// keep this rank's slice and communicate in every pass.
class GradientReducer {
 public:
  /// Gradients are kept on `device`, which `groups` work on. Units in the order in which backward
  /// passes finish them; all ranks communicate in that order.
  GradientReducer(std::vector<const UnitLayout*> units, int zero, Reduction reduction,
                  const ShardGroups& groups, WaitTally& waits, at::Device device = at::kCPU);

  size_t units() const { return units_.size(); }
  const UnitLayout& layout(size_t unit) const { return *units_[unit]; }
  /// What add() has added up in this step, fp32 [layout.size]: at stages 0 and 1 the same memory in
  /// every step. Behind begin_step().
  const at::Tensor& own(size_t unit) const { return state_[unit].whole; }

  void begin_step();
  /// `last`: no further pass follows in this step. `micro_batches` of this pass: the ranks behind
  /// have none and contribute zeros.
  void begin_pass(bool last, int64_t micro_batches);
  /// Adds to the gradient of part `part` of unit `unit`.
  void add(size_t unit, size_t part, const at::Tensor& gradient);
  /// No more gradients of `unit` come in this pass.
  void done(size_t unit);
  /// Completes the pass; units that were never done are taken as they are.
  void finish_pass();
  /// Keeps a hash of every gradient that is added, over its bytes.
  void record_fingerprints(bool on) { record_ = on; }
  std::vector<uint64_t> take_fingerprints() { return std::exchange(fingerprints_, {}); }
  /// The sum, fp32 [slice], after the last pass.
  const at::Tensor& gradient(size_t unit) const { return state_[unit].sum; }

 private:
  struct State {
    at::Tensor whole;  // this rank's gradients
    at::Tensor sum;    // over ranks, of this rank's slice
    bool done = false;
  };
  struct Flight {
    size_t unit = 0;
    at::Tensor send, receive;
    std::unique_ptr<CommWork> work;
  };

  bool whole_gradients() const { return zero_ < 2 && reduction_ != Reduction::kOrdered; }
  UnitLayout::Range range(size_t unit) const;
  void launch_ready(bool all);
  void launch(size_t unit);
  void land(Flight flight);
  void add_in_order(size_t unit, const at::Tensor& gathered);
  void sum_over_replicas(size_t unit);

  std::vector<const UnitLayout*> units_;
  int zero_;
  Reduction reduction_;
  const ShardGroups& groups_;
  WaitTally& waits_;
  at::TensorOptions options_;  // of gradients
  std::vector<State> state_;
  std::deque<Flight> flights_;
  size_t next_ = 0;  // unit to be launched
  bool last_ = true;
  int64_t micro_batches_ = 1;
  bool record_ = false;
  std::vector<uint64_t> fingerprints_;
};

}  // namespace ashlar
