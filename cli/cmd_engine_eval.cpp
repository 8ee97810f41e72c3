#include "cli/commands.h"
#include "cli/engine_scorer.h"
#include "cli/eval.h"
#include "package/import/open_model.h"

namespace ashlar::cli {

void add_engine_eval_command(CLI::App& app) {
  EvalSupport support;
  support.scorers = {"engine"};
  support.open = [](const std::string& path) { return open_model(path); };
  support.make_scorer = [](const std::string&, const ModelData& model,
                           const EngineArguments& engine,
                           const std::vector<CacheRequest>& arms) -> std::unique_ptr<Scorer> {
    return std::make_unique<EngineScorer>(model, engine, arms);
  };
  support.read_shards = nullptr;
  add_eval(app, support);
}

}  // namespace ashlar::cli
