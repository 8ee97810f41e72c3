#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "models/stage_executor.h"
#include "train/dist/gradient_reducer.h"
#include "train/dist/parameter_unit.h"
#include "train/unit_plan.h"

namespace ashlar {

/// Runs a model's stages over sharded parameters. Every stage is one node of the autograd graph
/// with a graph of its own inside: before it runs, forward or backward, its units are gathered, the
/// next stage's begin to be; behind it they are released, and the gradients of a unit are handed to
/// the reducer when the last of its stages is through, while the backward pass goes on. A stage
/// whose activations are recomputed keeps its inputs alone (arXiv 1604.06174).
class StageRunner : public StageExecutor {
 public:
  /// `places` by index into parameters(spec); `stages[i]` are the parameters of stage i, the loss
  /// behind the last; `recompute[i]`: keep only the inputs of stage i.
  StageRunner(std::vector<std::unique_ptr<ParameterUnit>>& units, GradientReducer& reducer,
              std::vector<ParameterPlace> places, std::vector<std::vector<size_t>> stages,
              std::vector<bool> recompute);
  ~StageRunner() override;

  /// Forgets a pass that did not come to its end.
  void begin_pass();
  std::vector<at::Tensor> run(const StageCall& call, std::vector<at::Tensor> inputs) override;

 private:
  struct Frame;
  struct Node;
  enum class Direction { kForward, kBackward };

  std::vector<at::Tensor> run_plain(const StageCall& call, std::vector<at::Tensor> inputs);
  void acquire(size_t stage, Direction direction);
  void release(size_t stage);
  const at::Tensor& value(size_t parameter) const;
  std::vector<at::Tensor> backward(Frame& frame, std::span<const at::Tensor> gradients);
  void add_gradients(const Frame& frame, std::span<const at::Tensor> gradients);

  std::vector<std::unique_ptr<ParameterUnit>>& units_;
  GradientReducer& reducer_;
  std::vector<ParameterPlace> places_;
  std::vector<std::vector<size_t>> units_of_stage_;
  std::vector<bool> recompute_;
  std::vector<int64_t> open_;  // of each unit: stages run forward and not yet backward
};

}  // namespace ashlar
