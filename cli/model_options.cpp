#include "cli/model_options.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "cli/app.h"
#include "core/base/error.h"
#include "data/tokenizer/hf_json.h"

namespace ashlar::cli {

EngineOptions EngineArguments::engine_options() const {
  EngineOptions options;
  options.threads = threads;
  options.activation = activation == "int8" ? ActivationKind::kInt8 : ActivationKind::kF32;
  if (!memory.empty()) options.memory_budget = parse_bytes("--memory", memory);
  require(backup_folder.empty() || !backup_memory.empty(), ErrorCode::kRequest,
          "--kv-backup-folder {}: without --kv-backup-memory all backups stay in memory",
          backup_folder);
  if (!backup_memory.empty()) {
    options.backups = {parse_bytes("--kv-backup-memory", backup_memory), backup_folder};
  }
  if (!share.empty()) options.prefix_bytes = parse_bytes("--kv-share", share);
  return options;
}

void add_sampling_options(CLI::App* command, SamplingOptions& sampling) {
  command->add_option("--temperature", sampling.temperature, "0 is greedy")->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "Sample among the K most likely (0: all)")
      ->capture_default_str();
  command->add_option("--top-p", sampling.top_p, "Sample among the head of this probability")
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "Seed of the sampler")->capture_default_str();
}

namespace {

// What a policy keeps beside its budget (docs/kv-cache.md).
void add_policy_options(CLI::App* command, CacheRequest& cache) {
  command->add_option("--kv-sink", cache.sink, "First tokens that are never evicted")
      ->capture_default_str();
  command->add_option("--kv-recent", cache.recent,
                      "Newest tokens that are never evicted (default: the policy's)");
  command
      ->add_option("--kv-window", cache.window,
                   "Query tokens that score: the last of a prompt (snapkv, pyramidkv, "
                   "snapstream: 32), of the history (scissorhands: 400; kvcrush: its scorer's)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--kv-pool", cache.pool,
                      "How snapkv, pyramidkv and snapstream pool neighbouring scores: none, avg:5 "
                      "(default), max:7");
  command->add_option("--kv-drop", cache.drop,
                      "Dropped at once when the budget is passed: tokens or percent of it "
                      "(scissorhands: 50%, kvcrush: 25%, h2o, tova, keydiff, random: one row)");
  command->add_option("--kv-layers", cache.layers,
                      "How budgets differ between groups of layers, their mean unchanged: uniform, "
                      "falling:20, rising:20 or one weight each (3,2,1)");
  command->add_option("--kv-seed", cache.seed,
                      "Seed of the random policy and of kvcrush's random anchor (default: 0)");
  command->add_flag(
      "--kv-by-age", cache.by_age,
      "scissorhands, and kvcrush by its counts: divide them by the queries that could have "
      "counted");
  command->add_option("--kv-crush", cache.crush, crush_help());
  command->add_option("--kv-topk", cache.topk,
                      "arkvale: tokens of the pages that a query must find resident, first and "
                      "newest ones included (default: 1280, at most half the budget)");
  command->add_option("--kv-digest", cache.digest,
                      "arkvale: what a page is remembered by, and of how many rows: cuboid_max, "
                      "cuboid_center, cuboid_mean (default), sphere_max, sphere_center, "
                      "sphere_mean; cuboid_max:8");
  command->add_option("--kv-dense-layers", cache.dense_layers,
                      "arkvale: first groups of layers that keep every page (default: 0)");
  command->add_option("--kv-select-every", cache.select_every,
                      "arkvale: a selection serves so many rows of the cache (default: 1)");
}

}  // namespace

void add_engine_options(CLI::App* command, EngineArguments& a) {
  command->add_option("--kv-codec", a.cache.codec, kCodecHelp);
  command->add_option("--kv-policy", a.cache.policy, policy_help())->capture_default_str();
  command->add_option("--kv-budget", a.cache.budget, kBudgetHelp);
  add_other_engine_options(command, a);
}

std::string policy_help() {
  return fmt::format("{} (docs/kv-cache.md)", fmt::join(policy_names(), ", "));
}

void add_other_engine_options(CLI::App* command, EngineArguments& a) {
  add_threads_option(command, a.threads);
  command
      ->add_option("--activation", a.activation,
                   "How activations enter quantized products: fp32, or int8 (faster, rounds)")
      ->check(CLI::IsMember({"fp32", "int8"}))
      ->capture_default_str();
  add_policy_options(command, a.cache);
  command->add_option("--kv-zip", a.cache.zip, zip_help());
  command->add_option("--kv-fp16-first", a.cache.fp16_first, "First tokens that stay fp16")
      ->capture_default_str();
  command
      ->add_option("--kv-fp16-newest", a.cache.fp16_newest,
                   "Newest tokens that are fp16 until others follow")
      ->capture_default_str();
  command
      ->add_option("--kv-page-rows", a.cache.page_rows,
                   "Rows of a page, which is encoded, shared and, by arkvale, recalled as one")
      ->capture_default_str();
  command->add_option("--kv-limit", a.cache.limit,
                      "Most bytes of a text's cache (64MiB): a longer text is refused");
  command->add_option("--kv-backup-memory", a.backup_memory,
                      "arkvale: most bytes of backups in memory (256MiB); the oldest beyond it go "
                      "to a file without a name (default: all in memory)");
  command->add_option("--kv-backup-folder", a.backup_folder,
                      "Where that file lies (default: $TMPDIR, else /tmp)");
  command->add_option("--memory", a.memory,
                      "Most bytes of weights and caches together (4GiB): what does not fit is "
                      "refused");
}

CacheChoice choose_cache(const EngineArguments& a, const ModelData& model, int64_t text_tokens,
                         std::shared_ptr<const FutureAttention> future) {
  CacheChoice choice;
  choice.options = cache_options(a.cache, model.spec, model.kv_codec.key, model.kv_codec.value);
  const std::vector<KvGroup> groups = kv_groups(model.spec);
  check_zip(choice.options, a.cache.policy != "none", groups);
  const int64_t text = std::min(text_tokens, model.spec.context_length);
  choice.policy_options = policy_options(a.cache, model.spec, choice.options, text);
  choice.policy = choice.policy_options.name == "oracle" && future != nullptr
                      ? make_oracle(choice.policy_options, groups, std::move(future))
                      : make_policy(choice.policy_options, groups);
  check_goes_with(choice.options, choice.policy.get());
  const bool recalls = choice.policy != nullptr && choice.policy->needs().recall;
  require(a.backup_memory.empty() || recalls, ErrorCode::kRequest,
          "--kv-backup-memory {}: --kv-policy {} recalls no pages", a.backup_memory,
          a.cache.policy);
  return choice;
}

std::unique_ptr<Tokenizer> model_tokenizer(const ModelData& model, const std::string& path) {
  require(!model.tokenizer_json.empty(), ErrorCode::kRequest,
          "{}: has no tokenizer; give one with --tokenizer when importing", path);
  return parse_hf_tokenizer(model.tokenizer_json, path + "/tokenizer.json");
}

}  // namespace ashlar::cli
