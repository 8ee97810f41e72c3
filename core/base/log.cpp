#include "core/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include "core/base/error.h"

namespace ashlar {

void init_logging(const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  require(parsed != spdlog::level::off || level == "off", ErrorCode::kRequest,
          "--log-level: '{}' is not one of trace, debug, info, warn, error, off", level);
  auto logger = std::make_shared<spdlog::logger>(
      "ashlar", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%H:%M:%S %^%l%$ %v");
  logger->set_level(parsed);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace ashlar
