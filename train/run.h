#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "core/base/node.h"
#include "models/spec/parameters.h"
#include "train/config.h"
#include "train/trainer.h"

namespace ashlar {

struct RunOptions {
  enum class Resume {
    kNone,  ///< the output folder must not exist
    kAuto,  ///< from the newest checkpoint of the output folder, from the start if there is none
    kFrom,  ///< from `checkpoint`, a run folder or a checkpoint
  };
  Resume resume = Resume::kNone;
  std::filesystem::path checkpoint;
  /// Values a new run begins with instead of fresh ones; not asked when a checkpoint is loaded.
  std::function<std::vector<float>(const ParameterSpec&)> initial;
  /// Ends after this step as a signal would, but with exit status 0; 0: never.
  int64_t stop_after = 0;
  /// Called with the reason when a run of several ranks fails, after the other ranks have been
  /// told. It must end the process without running destructors: threads may be stuck in the
  /// network.
  std::function<void(const std::exception&)> fatal;
};

struct RunResult {
  std::filesystem::path output;
  int64_t rank = 0;
  int64_t parameters = 0;
  StepResult last;
  int64_t tokens = 0;
  std::optional<ValidationResult> validation;
  std::string resumed_from;  ///< checkpoint folder, or empty
  bool stopped = false;      ///< by a signal or stop_after, before the last step
  bool signalled = false;    ///< by a signal
  double seconds = 0;
  double tokens_per_second = 0;
};

/// Trains `root`'s model into its output folder: config.yaml (resolved), tokenizer.json,
/// metrics.jsonl, events/, checkpoints/. Alone, or as one rank of the run that the launcher's
/// environment describes (train/dist/launch.h); rank 0 writes all but its share of checkpoints.
/// SIGINT, SIGTERM and SIGUSR1 on any rank end the run after the step in progress with a
/// checkpoint; a second SIGINT kills. Throws Error: kRequest for a wrong configuration or an output
/// folder that is in the way, kData for a loss that is no longer finite, kIo when other ranks are
/// gone.
RunResult run_training(const Node& root, const RunOptions& options);

}  // namespace ashlar
