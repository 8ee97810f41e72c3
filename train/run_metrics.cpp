#include "train/run_metrics.h"

#include <spdlog/spdlog.h>

namespace ashlar {

RunMetrics::RunMetrics(const std::string& address, const std::filesystem::path& run, int64_t steps)
    : metrics_({{"run", run.string()}}),
      endpoint_(parse_host_port(address, "log.prometheus"), metrics_) {
  metrics_.gauge("ashlar_train_steps", "Optimizer steps that the run is to take",
                 static_cast<double>(steps));
  spdlog::info("metrics for Prometheus: port {}, /metrics", endpoint_.port());
}

void RunMetrics::step(const StepResult& result, int64_t tokens, double tokens_per_second) {
  metrics_.counter("ashlar_train_step_total", "Optimizer steps done",
                   static_cast<double>(result.step));
  metrics_.counter("ashlar_train_tokens_total", "Training targets seen",
                   static_cast<double>(tokens));
  metrics_.gauge("ashlar_train_loss_nats", "Mean loss over the targets of the last step",
                 result.loss);
  metrics_.gauge("ashlar_train_learning_rate", "Learning rate of the last step", result.lr);
  metrics_.gauge("ashlar_train_gradient_norm",
                 "Global gradient norm of the last step, before clipping", result.grad_norm);
  metrics_.gauge("ashlar_train_tokens_per_second", "Targets per second since the line before",
                 tokens_per_second);
}

void RunMetrics::validation(const ValidationResult& result) {
  metrics_.gauge("ashlar_validation_loss_nats", "Mean loss over the targets of the validation set",
                 result.loss);
}

void RunMetrics::checkpoint(const CheckpointSaver::Outcome& outcome) {
  (outcome.ok ? checkpoints_ : failures_) += 1;
  metrics_.counter("ashlar_checkpoints_total", "Checkpoints written",
                   static_cast<double>(checkpoints_));
  metrics_.counter("ashlar_checkpoint_failures_total", "Checkpoints that could not be written",
                   static_cast<double>(failures_));
  if (!outcome.ok) return;
  metrics_.gauge("ashlar_checkpoint_step", "Step of the newest checkpoint",
                 static_cast<double>(outcome.step));
  metrics_.gauge("ashlar_checkpoint_seconds", "Time that the newest checkpoint took to write",
                 outcome.seconds);
}

}  // namespace ashlar
