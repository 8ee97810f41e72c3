#pragma once

#include <map>
#include <memory>
#include <vector>

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// The engine behind the Scorer interface, with any codecs, policies and budgets as arms. A budget
/// in percent is of each text's own prompt, or of the whole text where it has none.
class EngineScorer final : public Scorer {
 public:
  /// One arm, the cache that `arguments` ask for. Keeps a reference to `model`, whose cache
  /// settings the texts' budgets are resolved with.
  EngineScorer(const ModelData& model, const EngineArguments& arguments)
      : EngineScorer(model, arguments, {arguments.cache}) {}
  /// The same with these arms instead, at least one. Throws Error(kRequest) for one that the model
  /// cannot have, naming it where there are several.
  EngineScorer(const ModelData& model, const EngineArguments& arguments,
               std::vector<CacheRequest> arms);

  int64_t vocab_size() const override;
  int64_t context_length() const override;
  /// Of the first arm, as score() and logits() use.
  Node settings() const override { return arms_.front().settings; }
  std::vector<Arm> arms() const override { return arms_; }
  std::vector<TextScore> score(std::span<const ScoreText> texts) override;
  std::vector<std::vector<TextScore>> score_arms(std::span<const ScoreText> texts) override;
  std::vector<float> logits(std::span<const int32_t> tokens) override;

  Engine& engine() { return engine_; }
  /// The cache of an arm for `text`. Throws as the constructor does, for budgets that a short text
  /// makes too small.
  const CacheChoice& cache_for(size_t arm, const ScoreText& text);
  /// Whether an arm's budget depends on the text.
  bool relative() const;

 private:
  Arm arm_of(const CacheRequest& request) const;
  const CacheChoice& cache_for(size_t arm, int64_t tokens);
  std::vector<std::vector<TextScore>> score_with(size_t arms, std::span<const ScoreText> texts);

  const ModelData& model_;
  EngineArguments arguments_;
  std::vector<CacheRequest> requests_;
  std::vector<Arm> arms_;
  Engine engine_;
  std::vector<std::map<int64_t, CacheChoice>> caches_;  ///< by length, where budgets depend on it
};

}  // namespace ashlar::cli
