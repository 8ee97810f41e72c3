#pragma once

#include <gtest/gtest.h>

#include <string>

#include "cli/model_options.h"
#include "core/config/config.h"
#include "eval/scorer.h"
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

/// Bit for bit the same scores, and caches of the same size.
inline void expect_same(const TextScore& one, const TextScore& other) {
  ASSERT_EQ(one.tokens.size(), other.tokens.size());
  for (size_t i = 0; i < one.tokens.size(); ++i) {
    ASSERT_EQ(one.tokens[i].log_p, other.tokens[i].log_p) << i;
    ASSERT_EQ(one.tokens[i].best, other.tokens[i].best) << i;
  }
  EXPECT_EQ(one.kv_bytes, other.kv_bytes);
  EXPECT_EQ(one.kv_prompt_bytes, other.kv_prompt_bytes);
}

}  // namespace ashlar::cli
