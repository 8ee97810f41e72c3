#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/parameter_set.h"

namespace ashlar {

/// One piece of a forward pass: a pure function of parameters and inputs. It may be called again
/// with the same values (activation checkpointing).
struct StageCall {
  size_t stage = 0;                    ///< index into Model::stages(); the loss is behind the last
  std::span<const size_t> parameters;  ///< indices into parameters(spec)
  /// Undefined tensors among inputs and outputs stay undefined.
  std::function<std::vector<at::Tensor>(std::span<const at::Tensor> parameters,
                                        std::span<const at::Tensor> inputs)>
      body;
};

/// Runs the pieces of a model in order. Training wraps them here: gathering of sharded parameters,
/// reduction of gradients and activation checkpointing need nothing from the model.
class StageExecutor {
 public:
  virtual ~StageExecutor() = default;
  virtual std::vector<at::Tensor> run(const StageCall& call, std::vector<at::Tensor> inputs) = 0;
};

/// Calls every piece as it comes, with the tensors of a ParameterSet.
class DirectExecutor : public StageExecutor {
 public:
  explicit DirectExecutor(const ParameterSet& parameters) : parameters_(parameters) {}
  std::vector<at::Tensor> run(const StageCall& call, std::vector<at::Tensor> inputs) override {
    std::vector<at::Tensor> own;
    for (const size_t index : call.parameters) own.push_back(parameters_.tensors[index]);
    return call.body(own, inputs);
  }

 private:
  const ParameterSet& parameters_;
};

}  // namespace ashlar
