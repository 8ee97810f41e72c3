#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/stage_executor.h"
#include "train/dist/gradient_reducer.h"
#include "train/dist/parameter_unit.h"
#include "train/monitor/trace.h"
#include "train/unit_plan.h"

namespace ashlar {

/// What the runner knows of a model's parameters, adapters (LoRA) numbered behind them.
struct RunnerPlan {
  struct Adapter {
    size_t down = 0, up = 0;  ///< A [rank, in] and B [out, rank]
  };
  std::vector<ParameterPlace> places;              ///< of each parameter and adapter
  std::vector<bool> trained;                       ///< of each
  std::vector<std::optional<Adapter>> adapters;    ///< of each parameter of the model
  double adapter_scale = 0;                        ///< of B·A
  std::vector<std::vector<size_t>> stages;         ///< parameters of each, the loss behind the last
  std::vector<std::string> names;                  ///< of stages
  std::vector<bool> recompute;                     ///< keep only the inputs of a stage
  at::ScalarType compute = at::ScalarType::Float;  ///< of products
};

/// Runs a model's stages over sharded parameters. Every stage is one node of the autograd graph
/// with a graph of its own inside: before it runs, forward or backward, its units are gathered, the
/// next stage's begin to be; behind it they are released, and the gradients of a unit are handed to
/// the reducer when the last of its stages is through, while the backward pass goes on. A stage
/// whose activations are recomputed keeps its inputs alone (arXiv 1604.06174). A matrix W with an
/// adapter is read as W + scale·B·A, made anew for each pass.
class StageRunner : public StageExecutor {
 public:
  StageRunner(std::vector<std::unique_ptr<ParameterUnit>>& units, GradientReducer& reducer,
              RunnerPlan plan);
  ~StageRunner() override;

  /// Spans of every stage from now on; null: none.
  void trace(Tracer* tracer) { tracer_ = tracer; }
  /// Forgets a pass that did not come to its end.
  void begin_pass();
  std::vector<at::Tensor> run(const StageCall& call, std::vector<at::Tensor> inputs) override;

 private:
  struct Frame;
  struct Node;
  enum class Direction { kForward, kBackward };

  void acquire(size_t stage, Direction direction);
  void release(size_t stage, Direction direction);
  const at::Tensor& value(size_t parameter) const;
  std::unique_ptr<Frame> make_frame(const StageCall& call, std::vector<at::Tensor> inputs) const;
  bool differentiable(const Frame& frame) const;
  std::vector<at::Tensor> backward(Frame& frame, std::span<const at::Tensor> gradients);
  void add_gradients(const Frame& frame, std::span<const at::Tensor> gradients);

  std::vector<std::unique_ptr<ParameterUnit>>& units_;
  GradientReducer& reducer_;
  RunnerPlan plan_;
  std::vector<std::vector<size_t>> units_of_stage_;
  Tracer* tracer_ = nullptr;
  std::vector<int64_t> open_;  // of each unit: stages run forward and not yet backward
};

}  // namespace ashlar
