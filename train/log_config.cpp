#include "train/log_config.h"

#include "core/base/error.h"
#include "train/monitor/prometheus.h"

namespace ashlar {

LogConfig read_log_config(const Node& node) {
  NodeReader reader(node, "log");
  LogConfig config;
  config.every = reader.integer_or("every", config.every, 1, int64_t{1} << 40);
  config.prometheus = reader.text_or("prometheus", config.prometheus);
  reader.finish();
  if (!config.prometheus.empty()) {
    const Node& value = *node.find("prometheus");
    try {
      parse_host_port(config.prometheus, "log.prometheus");
    } catch (const Error& error) {
      fail(ErrorCode::kRequest, "{}: {}", value.where(), error.what());
    }
  }
  return config;
}

Node log_config_node(const LogConfig& config) {
  Node out = Node::Map{{"every", config.every}};
  if (!config.prometheus.empty()) out.set("prometheus", config.prometheus);
  return out;
}

}  // namespace ashlar
