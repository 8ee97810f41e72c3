#pragma once

#include <string>

namespace ashlar::cli {

/// Throws Error(kRequest) naming `option` unless gnuplot can be started.
void require_gnuplot(const std::string& option);

/// Runs a gnuplot script. Throws Error(kIo) if gnuplot refuses it; what it says goes to stderr.
void run_gnuplot(const std::string& script);

}  // namespace ashlar::cli
