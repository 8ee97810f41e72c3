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
  std::string vocabulary_sha256;  ///< empty when unknown
};

/// What differs between `ashlar eval` and `ashlar-engine eval`.
struct EvalSupport {
  std::vector<std::string> scorers;  ///< names for --scorer, the default first
  ModelData (*open)(const std::string& path);
  /// `arms`: at least one; only the engine has caches.
  std::unique_ptr<Scorer> (*make_scorer)(const std::string& name, const ModelData& model,
                                         const EngineArguments& engine,
                                         const std::vector<CacheRequest>& arms);
  /// Token shards as a stream; null when HDF5 is not linked.
  TokenStream (*read_shards)(const std::string& folder);
};

void add_eval(CLI::App& app, const EvalSupport& support);

}  // namespace ashlar::cli
