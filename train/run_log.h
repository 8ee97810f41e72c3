#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "core/base/progress.h"
#include "train/checkpoint/saver.h"
#include "train/config.h"
#include "train/events.h"
#include "train/metrics.h"
#include "train/monitor/progress_line.h"
#include "train/run_metrics.h"
#include "train/trainer.h"

namespace ashlar {

/// What rank 0 writes of a run: metrics.jsonl, events/, the lines and the bar on stderr, and what
/// Prometheus reads.
class RunLog {
 public:
  /// `metrics_bytes`: length of metrics.jsonl that belongs to `begin`, from which the run of
  /// `ranks` goes on. Measures the peak that MFU refers to, unless the configuration says it.
  RunLog(const TrainConfig& config, int64_t metrics_bytes, const RunPosition& begin, int64_t ranks);

  /// A step that was taken; written every log.every steps and after the last one.
  void step(const StepResult& result, const RunPosition& after);
  void validation(const ValidationResult& result, const RunPosition& at);
  /// Norms of every parameter and its gradient.
  void norms(const ParameterNorms& norms, int64_t step);
  void checkpoint(const CheckpointSaver::Outcome& outcome);
  /// Something a guard did: its own line in metrics.jsonl and a warning.
  void intervention(int64_t step, const std::string& action, const std::string& reason);
  /// Time since `begin` was not training.
  void not_training(std::chrono::steady_clock::time_point begin);
  /// Cuts metrics.jsonl to `bytes`: the run goes back to `position`.
  void rewind(int64_t bytes, const RunPosition& position);
  /// Length of metrics.jsonl, on disk.
  int64_t position() { return metrics_->position(); }

 private:
  ProgressValues values(const StepResult& result, const RunPosition& after,
                        const RunPosition& before, std::chrono::steady_clock::duration span) const;

  const TrainConfig& config_;
  std::unique_ptr<MetricsFile> metrics_;
  EventWriter events_;
  std::unique_ptr<RunMetrics> served_;  // null: not asked for
  bool bar_;
  Progress progress_;
  double flops_per_step_, peak_;  // of all ranks
  std::chrono::steady_clock::time_point start_, logged_at_;
  RunPosition begin_, logged_;
  double data_seconds_ = 0, comm_seconds_ = 0;  // since the last line
};

}  // namespace ashlar
