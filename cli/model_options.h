#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "data/tokenizer/tokenizer.h"
#include "engine/decode/budget.h"
#include "engine/decode/sampler.h"
#include "engine/model/engine.h"
#include "engine/policy/oracle.h"

namespace ashlar::cli {

/// Options that every command on the engine shares.
struct EngineArguments {
  int threads = 0;
  std::string activation = "fp32";
  CacheRequest cache;
  std::string memory;  ///< bytes for weights and caches together; empty: no limit
  std::string backup_memory, backup_folder;  ///< BackupOptions; empty: no limit, the default
  std::string share;  ///< bytes of pages kept for texts that begin alike; empty: none

  EngineOptions engine_options() const;
};

/// Adds --temperature, --top-k, --top-p and --seed.
void add_sampling_options(CLI::App* command, SamplingOptions& sampling);

/// Adds --threads, --activation and the --kv-* options.
void add_engine_options(CLI::App* command, EngineArguments& arguments);
/// The same without --kv-codec, --kv-policy and --kv-budget, whose help texts follow.
void add_other_engine_options(CLI::App* command, EngineArguments& arguments);
inline constexpr const char* kCodecHelp =
    "fp32, fp16, bf16, q8, q4, q3, q2, KEY:VALUE such as q4:q8, or zipcache for both (default: the "
    "package's)";
inline constexpr const char* kBudgetHelp =
    "Rows to keep: tokens (256), percent of the text (25%) or bytes (64KiB)";
std::string policy_help();

/// Cache options and policy of a request for `model`; `text_tokens` is what percents refer to.
struct CacheChoice {
  CacheOptions options;
  PolicyOptions policy_options;
  std::shared_ptr<const Policy> policy;
};
/// `future`: what an oracle knows (engine/policy/oracle.h), which is refused without.
CacheChoice choose_cache(const EngineArguments& arguments, const ModelData& model,
                         int64_t text_tokens,
                         std::shared_ptr<const FutureAttention> future = nullptr);

/// The model's tokenizer; throws Error(kRequest) naming `path` when it has none.
std::unique_ptr<Tokenizer> model_tokenizer(const ModelData& model, const std::string& path);

}  // namespace ashlar::cli
