#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "train/monitor/prometheus.h"
#include "train/trainer.h"

namespace ashlar {

/// A run's values for Prometheus, served while it lives.
class RunMetrics {
 public:
  /// `address` as log.prometheus. Throws Error(kRequest) when nothing can listen there.
  RunMetrics(const std::string& address, const std::filesystem::path& run, int64_t steps);

  void step(const StepResult& result, int64_t tokens, double tokens_per_second);
  void validation(const ValidationResult& result);
  void checkpoint(const CheckpointSaver::Outcome& outcome);

 private:
  PrometheusMetrics metrics_;
  int64_t checkpoints_ = 0, failures_ = 0;
  PrometheusEndpoint endpoint_;
};

}  // namespace ashlar
