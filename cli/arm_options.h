#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/model_options.h"

namespace ashlar::cli {

/// What --kv-policy, --kv-budget and --kv-codec list: all combinations are arms.
struct ArmLists {
  std::vector<std::string> policies = {"none"};
  std::vector<std::string> budgets;
  std::vector<std::string> codecs;  ///< empty: the package's

  bool evicts() const;
};

/// add_engine_options() with lists for these three.
void add_engine_options(CLI::App* command, EngineArguments& arguments, ArmLists& lists);

/// One request per arm, by policy, codec and budget; `common` gives everything else. A policy
/// "none" takes no budget. Several arms are compared with the full cache, no policy and the codec
/// of most bytes: where it is not listed it comes first. Throws Error(kRequest) for a value given
/// twice.
std::vector<CacheRequest> arms_of(const ArmLists& lists, const CacheRequest& common,
                                  const ModelData& model);

}  // namespace ashlar::cli
