#include "train/checkpoint_config.h"

#include <fmt/format.h>

namespace ashlar {

CheckpointConfig read_checkpoint_config(const Node& node) {
  constexpr int64_t kMost = int64_t{1} << 40;
  NodeReader reader(node, "checkpoint");
  CheckpointConfig config;
  config.every = reader.integer_or("every", config.every, 0, kMost);
  config.keep = reader.integer_or("keep", config.keep, 1, kMost);
  config.keep_every = reader.integer_or("keep_every", config.keep_every, 0, kMost);
  config.asynchronous = reader.boolean_or("async", config.asynchronous);
  reader.finish();
  if (config.keep_every > 0 && (config.every == 0 || config.keep_every % config.every != 0)) {
    fail_at(
        *node.find("keep_every"), "checkpoint.keep_every",
        fmt::format("{} is no multiple of checkpoint.every = {}", config.keep_every, config.every));
  }
  return config;
}

Node checkpoint_config_node(const CheckpointConfig& config) {
  return Node::Map{{"every", config.every},
                   {"keep", config.keep},
                   {"keep_every", config.keep_every},
                   {"async", config.asynchronous}};
}

}  // namespace ashlar
