#pragma once

#include <cstdint>
#include <string>

#include "core/base/node.h"

namespace ashlar {

/// The section `log`: how often, and where besides the run's own files.
struct LogConfig {
  int64_t every = 10;      ///< steps
  std::string prometheus;  ///< "127.0.0.1:9400": serve the run's metrics there; empty: nowhere
};

/// Reads the section. Throws Error(kRequest) "file:line: key: reason".
LogConfig read_log_config(const Node& node);
Node log_config_node(const LogConfig& config);

}  // namespace ashlar
