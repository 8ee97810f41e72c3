#pragma once

#include <memory>
#include <vector>

#include "models/model.h"
#include "models/spec/lora.h"
#include "train/dist/gradient_reducer.h"
#include "train/dist/parameter_unit.h"
#include "train/micro_batches.h"
#include "train/optim/ema.h"
#include "train/optim/norm.h"
#include "train/optim/optimizer.h"
#include "train/pass_graph.h"
#include "train/stage_runner.h"
#include "train/trainer.h"
#include "train/unit_plan.h"

namespace ashlar {

/// What a Trainer holds; private to trainer.cpp and trainer_state.cpp.
struct Trainer::State {
  State(const TrainConfig& config, int64_t eos_id, Communicator& control, Communicator& tensors);

  TrainConfig config;
  Model model;
  ForwardOptions options;
  std::vector<ParameterSpec> specs;  ///< of the model, then of adapters
  size_t model_parameters = 0;       ///< how many are the model's
  std::vector<LoraAdapter> adapters;
  at::Device device;
  Communicator &world, &tensors;  ///< of host memory; of memory on `device`; may be the same
  std::unique_ptr<Communicator> shard, replica;
  std::unique_ptr<Communicator> own_control_shard;
  Communicator* control_shard = nullptr;  ///< the ranks of `shard`, for host memory
  ShardGroups groups;
  WaitTally waits;
  UnitPlan plan;
  std::vector<std::unique_ptr<ParameterUnit>> units;
  std::unique_ptr<GradientReducer> reducer;
  std::unique_ptr<StageRunner> runner;
  std::unique_ptr<PassGraph> graph;  ///< null: passes are not recorded
  std::unique_ptr<Optimizer> optimizer;
  std::optional<WeightAverage> average;
  RunPosition position;
  struct Mirror {
    at::Tensor host, device;
  };
  std::vector<Mirror> mirrors;  ///< behind the last state() on a GPU
  Tracer* tracer = nullptr;

  struct Computed {
    StepResult result;
    int64_t tokens = 0;
    std::vector<uint64_t> fingerprints;  ///< of each pass, unit and part, as they came
  };
  std::optional<Computed> computed;  ///< between compute() and apply() or skip()

  std::vector<UnitSlice> slices() const;
  MicroBatches micro_batches(int64_t first, int64_t samples) const;
  /// One double per rank and pass, by number of the micro-batch.
  std::vector<double> by_micro_batch(const MicroBatches& dealt,
                                     const std::vector<double>& own) const;
  /// Forward and backward pass, gradients to the reducer; the loss, a double scalar.
  at::Tensor pass(const BatchTensors& in);
  /// Of `micro_batches` ranks, the step's last or not, with what is communicated.
  at::Tensor run_pass(const Batch& batch, double total_weight, bool last, int64_t micro_batches);
  void record_passes(std::unique_ptr<GraphBackend> backend);
  /// Before the host reads what depends on collectives.
  void settle();
  ValidationResult validate(const SampleSource& data, int64_t rows,
                            std::optional<double> bytes_per_token);
  double gradient_norm() const;
  RunnerPlan runner_plan() const;
  void initialise();
};

}  // namespace ashlar
