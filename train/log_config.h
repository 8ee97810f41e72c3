#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/node.h"

namespace ashlar {

/// The section `log`: how often, and where besides the run's own files.
struct LogConfig {
  int64_t every = 10;      ///< steps
  std::string prometheus;  ///< "127.0.0.1:9400": serve the run's metrics there; empty: nowhere
  /// FLOP/s of one rank that MFU refers to; 0: no MFU. Absent: measured when the run begins.
  std::optional<double> peak_flops;
  int64_t trace_from = 0;   ///< first step of the Chrome trace
  int64_t trace_steps = 0;  ///< 0: none
  int64_t norms_every = 0;  ///< steps between lines of every parameter's norms; 0: none
};

/// Reads the section. Throws Error(kRequest) "file:line: key: reason".
LogConfig read_log_config(const Node& node);
Node log_config_node(const LogConfig& config);

}  // namespace ashlar
