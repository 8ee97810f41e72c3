#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "data/shards/sample_source.h"
#include "models/spec/parameters.h"
#include "train/checkpoint/checkpoint.h"
#include "train/checkpoint/saver.h"
#include "train/config.h"

namespace ashlar {

struct StepResult {
  int64_t step = 0;
  double loss = 0;  ///< mean over the batch's targets, nats
  double lr = 0;
  double grad_norm = 0;  ///< global, before clipping
};

struct ValidationResult {
  double loss = 0;  ///< mean over targets, nats
  int64_t tokens = 0;
  std::optional<double> bits_per_byte;  ///< absent when the bytes per token are not known
  /// Block Transformers: mean loss of the targets at each of the L_B positions of a block.
  std::vector<double> loss_by_position;
};

/// One process training one model: fp32 master weights in flat storage, products in the configured
/// precision, gradients summed over micro-batches. Deterministic: the state after step n is a
/// function of (configuration, data, machine kind, threads). No torch in this header.
class Trainer {
 public:
  /// `config` with machine choices resolved. Keeps references to nothing but copies `config`.
  Trainer(const TrainConfig& config, int64_t eos_id);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// One optimizer step on the next `batch_size` samples. Throws Error(kData) if the loss or the
  /// gradient is not finite; weights are then as before the step.
  StepResult step(const SampleSource& data);
  /// Mean loss over samples [0, rows), or those of one epoch if `rows` is 0. `bytes_per_token` of
  /// the whole text, since windows do not end where characters do; absent: no bits per byte.
  ValidationResult validate(const SampleSource& data, int64_t rows,
                            std::optional<double> bytes_per_token) const;

  /// Replaces the parameters; values(p) has p.numel() elements.
  void set_parameters(const std::function<std::vector<float>(const ParameterSpec&)>& values);

  /// Where the run stands; metrics_bytes is the caller's.
  RunPosition position() const;
  /// Copies parameters and optimizer state.
  void save(Snapshot& snapshot) const;
  /// Continues from a checkpoint of the same model. Throws Error(kRequest) when the model, seed,
  /// context or batch size differ from `config`, Error(kData) when tensors are missing.
  void load(const CheckpointReader& reader);

  int64_t parameter_count() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ashlar
