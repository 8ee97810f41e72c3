#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "train/dist/gradient_reducer.h"
#include "train/dist/parameter_unit.h"
#include "train/graph_backend.h"
#include "train/micro_batches.h"

namespace ashlar {

/// The forward and backward pass of micro-batches, recorded once for each of their shapes and
/// replayed from then on: data in, loss out, gradients into the reducer's memory. What a recording
/// reads and writes never moves: inputs are copied into tensors of its own, whole parameters and
/// gradients stay where they are at ZeRO stages 0 and 1. Nothing is communicated within a pass: the
/// units are gathered before, the caller reduces gradients behind.
///
/// The replays of a recording in the first two steps that use it, the second with other samples and
/// other weights, are compared bit for bit with passes that are not recorded.
class PassGraph {
 public:
  /// A pass over a micro-batch: returns its loss, a double scalar, and adds gradients by
  /// `reducer`.
  using Pass = std::function<at::Tensor(const BatchTensors&)>;
  PassGraph(std::unique_ptr<GraphBackend> backend,
            std::vector<std::unique_ptr<ParameterUnit>>& units, GradientReducer& reducer,
            const ShardGroups& groups, Pass pass);

  /// The loss of `in`, whose weights are over the step's total. Gradients are added to what the
  /// reducer holds; its pass is begun by the caller, behind this. Throws Error(kInternal) when a
  /// replay differs from a pass, Error(kRequest) when passes cannot be recorded, or differ among
  /// each other. A collective.
  at::Tensor run(const BatchTensors& in, int64_t step);

 private:
  struct Graph {
    BatchTensors in;
    at::Tensor loss;
    std::unique_ptr<Recording> recording;
    std::vector<const void*> addresses;  ///< of parameters and gradients
    int64_t compared = 0;                ///< steps
    int64_t compared_step = -1;
  };
  /// What a pass over a micro-batch gives, from gradients of zero.
  struct Result {
    at::Tensor loss;
    std::vector<at::Tensor> gradients;  ///< of each unit
  };

  Graph* find(const BatchTensors& in);
  Graph& record(const BatchTensors& in, const Result& expected);
  void compare(Graph& graph, const Result& expected);
  at::Tensor pass(const BatchTensors& in);
  at::Tensor pass_from_zero(const BatchTensors& in);
  std::vector<at::Tensor> gradients() const;
  void set_gradients(const std::vector<at::Tensor>& values);
  void zero_gradients();
  std::string difference(const at::Tensor& loss, const Result& expected) const;
  std::vector<const void*> addresses() const;

  std::unique_ptr<GraphBackend> backend_;
  std::vector<std::unique_ptr<ParameterUnit>>& units_;
  GradientReducer& reducer_;
  const ShardGroups& groups_;
  Pass pass_;
  std::vector<std::unique_ptr<Graph>> graphs_;
};

}  // namespace ashlar
