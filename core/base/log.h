#pragma once

#include <spdlog/spdlog.h>

namespace ashlar {

/// Sends spdlog's default logger to stderr with one-line messages. `level` is one of
/// trace, debug, info, warn, error, off; throws `Error(kRequest)` for another word.
void init_logging(const std::string& level);

}  // namespace ashlar
