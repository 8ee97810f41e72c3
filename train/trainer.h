#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/comm/communicator.h"
#include "data/shards/sample_source.h"
#include "models/spec/parameters.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/saver.h"
#include "train/config.h"
#include "train/monitor/trace.h"

namespace ashlar {

class GraphBackend;

struct StepResult {
  int64_t step = 0;
  double loss = 0;  ///< mean over the batch's targets, nats
  double lr = 0;
  double grad_norm = 0;  ///< global, before clipping
  // Of this rank, seconds of the step spent waiting:
  double data_seconds = 0;  ///< for samples
  double comm_seconds = 0;  ///< for other ranks
  int64_t vote = 0;         ///< largest of the ranks' votes
};

struct ValidationResult {
  double loss = 0;  ///< mean over targets, nats
  int64_t tokens = 0;
  std::optional<double> bits_per_byte;  ///< absent when the bytes per token are not known
  /// Block Transformers: mean loss of the targets at each of the L_B positions of a block.
  std::vector<double> loss_by_position;
  std::optional<double> averaged_loss;  ///< with the averaged weights, if the run keeps them
};

/// A parameter and the 2-norms of its values and of its gradient, before clipping.
struct ParameterNorm {
  std::string name;
  double weight = 0, gradient = 0;
};
using ParameterNorms = std::vector<ParameterNorm>;

/// A run of a state tensor's elements, row-major, that this rank holds.
struct StatePiece {
  std::string name;  ///< "parameters/…", "optimizer/exp_avg/…", ...
  std::vector<int64_t> shape;
  int64_t first = 0;
  std::span<float> values;
};

/// One rank of the training of one model: fp32 master weights in flat storage, products in the
/// configured precision, gradients summed over micro-batches and ranks, state shared as
/// `distributed` says. Deterministic: the state after step n is a function of (configuration, data,
/// ranks, machine kind, threads), with `reduce: ordered` also not of the ranks. Every method is
/// called by all ranks alike. No torch in this header.
class Trainer {
 public:
  /// `config` with machine choices resolved. Keeps references to nothing but `world`, copies
  /// `config`. Throws Error(kRequest) when the ranks cannot share the work so.
  /// `world` carries host memory: config.device must be the CPU.
  Trainer(const TrainConfig& config, int64_t eos_id, Communicator& world);
  /// `control` carries a few numbers in host memory, `tensors` those of config.device, between the
  /// same ranks.
  Trainer(const TrainConfig& config, int64_t eos_id, Communicator& control, Communicator& tensors);
  /// A single process.
  Trainer(const TrainConfig& config, int64_t eos_id);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// compute() and apply(). Throws Error(kData) if the loss or the gradient is not finite; weights
  /// are then as before the step.
  StepResult step(const SampleSource& data);
  /// Loss and gradient of the next `batch_size` samples; changes nothing else. Not finite values
  /// are returned, not thrown. `vote` goes along to all ranks.
  StepResult compute(const SampleSource& data, int64_t vote = 0);
  /// Passes are recorded by `backend` and replayed from now on (train/pass_graph.h), as
  /// train.cuda_graphs does by CUDA's. Throws Error(kRequest) where the configuration forbids it.
  void record_passes(std::unique_ptr<GraphBackend> backend);
  /// Spans of what the trainer does from now on; null: none.
  void trace(Tracer* tracer);
  /// Whether compute() takes fingerprints of every gradient it makes, for replay().
  void record_fingerprints(bool on);
  /// Whether communication goes on beside computation (default); off to measure what that hides.
  void overlap_communication(bool on);
  /// Computes the same gradient once more and compares every rank's own, before any sum, bit for
  /// bit. The ranks that differ, the same list on all of them.
  std::vector<int64_t> replay(const SampleSource& data);
  /// The optimizer's step with the gradient computed last.
  void apply();
  /// Passes over the samples computed last without a step of the optimizer.
  void skip();

  /// Of every parameter, with the gradient computed last; before apply() or skip().
  ParameterNorms norms();

  /// Mean loss over samples [0, rows), or those of one epoch if `rows` is 0. `bytes_per_token` of
  /// the whole text, since windows do not end where characters do; absent: no bits per byte.
  ValidationResult validate(const SampleSource& data, int64_t rows,
                            std::optional<double> bytes_per_token);

  /// Exchanges the weights and their average (ema), for a validation; again, to go on.
  void swap_average();

  /// Replaces the parameters; values(p) has p.numel() elements.
  void set_parameters(const std::function<std::vector<float>(const ParameterSpec&)>& values);

  /// Where the run stands; metrics_bytes is the caller's.
  RunPosition position() const;
  /// Goes on with the samples from `next_sample` on.
  void set_next_sample(int64_t next_sample);
  /// The part of this rank's state that it writes into a checkpoint: all ranks' parts together are
  /// the whole state, every element once.
  std::vector<StatePiece> own_state();

  /// Copies own_state().
  void save(Snapshot& snapshot);
  /// Continues from a checkpoint of the same model. Throws Error(kRequest) when the model, seed,
  /// context or batch size differ from `config`, Error(kData) when tensors are missing.
  void load(const CheckpointReader& reader);

  int64_t parameter_count() const;

 private:
  /// All of this rank's state, to be read or written; after writing call state_changed().
  std::vector<StatePiece> state();
  void state_changed();

  struct State;
  std::unique_ptr<Communicator> alone_, alone_tensors_;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar
