#include "cli/commands.h"
#include "cli/engine_scorer.h"
#include "cli/eval.h"
#include "cli/run_model.h"
#include "cli/train_scorer.h"
#include "core/base/error.h"
#include "data/shards/shard_set.h"

namespace ashlar::cli {
namespace {

TokenStream read_shards(const std::string& folder) {
  const ShardSet shards(folder);
  require(shards.samples() == 0, ErrorCode::kRequest,
          "{}: holds cut samples, not a stream of tokens; perplexity needs the stream", folder);
  require(shards.source_bytes().has_value() && shards.total_tokens() > 0, ErrorCode::kRequest,
          "{}: the shards do not say how many bytes of text they hold", folder);
  TokenStream stream;
  stream.bytes = *shards.source_bytes();
  stream.vocabulary_sha256 = shards.vocabulary_sha256();
  stream.tokens.resize(static_cast<size_t>(shards.total_tokens()));
  shards.read(0, stream.tokens);
  return stream;
}

std::unique_ptr<Scorer> make_scorer(const std::string& name, const ModelData& model,
                                    const EngineArguments& engine,
                                    const std::vector<CacheRequest>& arms) {
  if (name == "train") return make_train_scorer(model, engine.threads);
  return std::make_unique<EngineScorer>(model, engine, arms);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  EvalSupport support;
  support.scorers = {"engine", "train"};
  support.open = open_run_or_model;
  support.make_scorer = make_scorer;
  support.read_shards = read_shards;
  add_eval(app, support);
}

}  // namespace ashlar::cli
