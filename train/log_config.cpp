#include "train/log_config.h"

#include "core/base/error.h"
#include "train/monitor/prometheus.h"

namespace ashlar {

LogConfig read_log_config(const Node& node) {
  NodeReader reader(node, "log");
  LogConfig config;
  config.every = reader.integer_or("every", config.every, 1, int64_t{1} << 40);
  config.prometheus = reader.text_or("prometheus", config.prometheus);
  if (reader.has("peak_flops")) config.peak_flops = reader.number("peak_flops", 0.0, 1e30);
  config.norms_every = reader.integer_or("norms_every", 0, 0, int64_t{1} << 40);
  if (const Node* trace = reader.optional("trace")) {
    NodeReader values(*trace, "log.trace");
    config.trace_from = values.integer("from", 1, int64_t{1} << 40);
    config.trace_steps = values.integer_or("steps", 3, 1, 1000);
    values.finish();
  }
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
  if (config.peak_flops) out.set("peak_flops", *config.peak_flops);
  if (config.norms_every > 0) out.set("norms_every", config.norms_every);
  if (config.trace_steps > 0) {
    out.set("trace", Node::Map{{"from", config.trace_from}, {"steps", config.trace_steps}});
  }
  return out;
}

}  // namespace ashlar
