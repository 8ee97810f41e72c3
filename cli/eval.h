#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// A text as tokens, with the bytes it came from.
struct TokenStream {
  std::vector<int32_t> tokens;
  int64_t bytes = 0;
};

/// What differs between `ashlar eval` and `ashlar-engine eval`.
struct EvalSupport {
  std::vector<std::string> scorers;  ///< names for --scorer, the default first
  ModelData (*open)(const std::string& path);
  std::unique_ptr<Scorer> (*make_scorer)(const std::string& name, const ModelData& model,
                                         const EngineArguments& engine);
  /// Token shards as a stream; null when HDF5 is not linked.
  TokenStream (*read_shards)(const std::string& folder);
};

void add_eval(CLI::App& app, const EvalSupport& support);

}  // namespace ashlar::cli
