#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "core/base/progress.h"
#include "train/config.h"
#include "train/events.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace ashlar {

/// What rank 0 writes of a run: metrics.jsonl, events/, the lines and the bar on stderr.
class RunLog {
 public:
  /// `metrics_bytes`: length of metrics.jsonl that belongs to `begin`, from which the run goes on.
  RunLog(const TrainConfig& config, int64_t metrics_bytes, const RunPosition& begin);

  /// A step that was taken; written every log.every steps and after the last one.
  void step(const StepResult& result, const RunPosition& after);
  void validation(const ValidationResult& result, const RunPosition& at);
  /// Something a guard did: its own line in metrics.jsonl and a warning.
  void intervention(int64_t step, const std::string& action, const std::string& reason);
  /// Time since `begin` was not training.
  void not_training(std::chrono::steady_clock::time_point begin);
  /// Cuts metrics.jsonl to `bytes`: the run goes back to `position`.
  void rewind(int64_t bytes, const RunPosition& position);
  /// Length of metrics.jsonl, on disk.
  int64_t position() { return metrics_->position(); }

 private:
  std::string left(int64_t step, double steps_per_second) const;

  const TrainConfig& config_;
  std::unique_ptr<MetricsFile> metrics_;
  EventWriter events_;
  bool bar_;
  Progress progress_;
  std::chrono::steady_clock::time_point start_, logged_at_;
  RunPosition begin_, logged_;
  double data_seconds_ = 0, comm_seconds_ = 0;  // since the last line
};

}  // namespace ashlar
