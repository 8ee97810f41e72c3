#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "data/shards/padded_documents.h"
#include "models/spec/lora.h"
#include "models/spec/spec.h"
#include "models/training_options.h"
#include "train/chat_config.h"
#include "train/checkpoint_config.h"
#include "train/device.h"
#include "train/distributed_config.h"
#include "train/guards.h"
#include "train/log_config.h"
#include "train/optim/config.h"

// What a training run is asked to do. docs/architecture.md lists the keys of the YAML file.

namespace ashlar {

enum class Precision { kAuto, kFp32, kBf16 };

/// A generated task (data/tasks) as training data.
struct TaskDataConfig {
  std::string name;
  Node options = Node::map();       ///< of the generator
  std::filesystem::path tokenizer;  ///< of tasks made of text
  int64_t examples = 0;             ///< of an epoch; 0: endless, training only
};

/// One source of training samples.
struct CorpusConfig {
  std::filesystem::path path;          ///< token shards; see ShardSet
  std::optional<TaskDataConfig> task;  ///< instead of shards
  std::optional<ChatDataConfig> chat;  ///< instead of shards
  double weight = 1;                   ///< share of the samples, relative to the others'
};

struct DataConfig {
  std::vector<CorpusConfig> train;                ///< one, or a mixture
  std::filesystem::path validation;               ///< token shards; empty: no validation
  std::optional<TaskDataConfig> validation_task;  ///< instead of shards
  std::optional<ChatDataConfig> validation_chat;  ///< instead of shards
  std::optional<int32_t> eos_id;                  ///< of shards that do not say theirs

  bool validates() const {
    return !validation.empty() || validation_task.has_value() || validation_chat.has_value();
  }
};

struct TrainConfig {
  ModelSpec model;
  DataConfig data;
  uint64_t seed = 0;
  int64_t steps = 0;        ///< optimizer steps in all
  int64_t context = 0;      ///< tokens per sample
  int64_t batch_size = 0;   ///< samples per optimizer step
  int64_t micro_batch = 0;  ///< samples per forward and backward pass
  Precision precision = Precision::kAuto;
  DeviceKind device = DeviceKind::kCpu;  ///< kAuto from a file that does not say
  int64_t device_index = 0;              ///< which GPU: the rank's, not the file's
  int64_t threads = 0;                   ///< 0: the cores this process may use
  bool cuda_graphs = false;              ///< passes are recorded once and replayed
  int64_t memory_limit = 0;              ///< bytes of tensors of one rank; 0: no limit
  bool document_mask = false;            ///< attention stays within a document of a packed sample
  BlockLossOptions block_losses;
  double z_loss = 0;  ///< weight of the squared log-partition (arXiv 2204.02311 §5)
  InitSpec init;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  DistributedConfig distributed;
  GuardConfig guards;
  /// Stages whose activations are computed again in the backward pass: globs over stage names
  /// ("model.layers.*"), "all" for all of them.
  std::vector<std::string> recompute;
  std::optional<EmaConfig> ema;    ///< absent: no average
  std::optional<LoraSpec> lora;    ///< absent: every parameter is trained
  int64_t validation_every = 0;    ///< steps; 0: only after the last one
  int64_t validation_batches = 0;  ///< of micro_batch samples; 0: all of the validation set
  CheckpointConfig checkpoint;
  LogConfig log;
  /// Recipe the model is meant to be quantized with; the commands check that it can be, before any
  /// training. Empty: none.
  std::filesystem::path recipe;
  std::filesystem::path output;
};

/// What the optimizer updates: every parameter, or with `lora` the adapters alone.
std::vector<ParameterSpec> trained_parameters(const TrainConfig& config);

/// How the training stream is laid out for this model: padded to blocks if `block.pad` says so.
PaddingOptions padding_of(const TrainConfig& config);

/// Reads a whole configuration. Throws Error(kRequest) "file:line: key: reason" for an unknown,
/// missing or impossible value.
TrainConfig train_config_from(const Node& root);

/// Replaces `precision: auto` and `threads: 0` by what this machine gives, so that a run carries on
/// the way it began, and says why in the log. Rule for auto: bf16 when the processor has bf16 dot
/// products (AVX-512 BF16 or AMX) and every stack is at least 128 wide; narrower products spend
/// their time outside the multipliers and run faster in fp32 (docs/results).
/// `ranks_here` processes of the run share this machine's cores.
void resolve_machine_choices(TrainConfig& config, int64_t ranks_here = 1);

/// The resolved configuration: `root` with every default filled in, ready for write_yaml.
Node resolved_config(const Node& root, const TrainConfig& config);

/// Learning rate of step `step` (1-based): the peak times schedule_factor.
double learning_rate(const TrainConfig& config, int64_t step);

}  // namespace ashlar
