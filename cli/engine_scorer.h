#pragma once

#include <map>
#include <memory>

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// The engine behind the Scorer interface, with any codec, policy and budget. A budget in percent
/// is of each text's own prompt, or of the whole text where it has none.
class EngineScorer final : public Scorer {
 public:
  /// Keeps a reference to `model`, whose cache settings the texts' budgets are resolved with.
  EngineScorer(const ModelData& model, const EngineArguments& arguments);

  int64_t vocab_size() const override;
  int64_t context_length() const override;
  Node settings() const override;
  std::vector<TextScore> score(std::span<const ScoreText> texts) override;
  std::vector<float> logits(std::span<const int32_t> tokens) override;

  Engine& engine() { return engine_; }
  /// The cache of a text whose budget in percent is of `tokens`.
  const CacheChoice& cache_for(int64_t tokens);

 private:
  const ModelData& model_;
  EngineArguments arguments_;
  Engine engine_;
  std::map<int64_t, CacheChoice> caches_;  ///< by length, where budgets depend on it
};

}  // namespace ashlar::cli
