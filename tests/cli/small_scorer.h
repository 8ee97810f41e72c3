#pragma once

#include <string>

#include "cli/model_options.h"
#include "core/config/config.h"
#include "tests/support/random_model.h"

namespace ashlar::cli {

/// configs/smoke/NAME.yaml with random weights.
inline ModelData smoke_model(const std::string& name, uint64_t seed = 91) {
  const Node root = load_yaml("configs/smoke/" + name + ".yaml");
  return test::random_model(model_spec_from_config(*root.find("model")), seed);
}

/// One thread, two sinks.
inline EngineArguments one_thread() {
  EngineArguments arguments;
  arguments.threads = 1;
  arguments.cache.sink = 2;
  return arguments;
}

}  // namespace ashlar::cli
