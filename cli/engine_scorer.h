#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// The caches of every arm for one text.
struct TextCaches {
  std::vector<const CacheChoice*> of_arm;
  std::vector<std::unique_ptr<const CacheChoice>> own = {};  ///< those of this text alone
};

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
  /// Throws Error(kRequest) if an arm cannot be for `text`: a budget that a short text makes too
  /// small, an oracle where nothing is to come.
  void check(const ScoreText& text);
  /// Whether check() depends on the text.
  bool depends_on_text() const;
  /// The first `arms` arms' caches for `text`. Reads it once for each codec with an oracle among
  /// them. Throws as check does.
  TextCaches caches(const ScoreText& text, size_t arms);
  TextCaches caches(const ScoreText& text) { return caches(text, arms_.size()); }

 private:
  Arm arm_of(const CacheRequest& request) const;
  template <typename F>
  auto naming(size_t arm, const F& make) const;
  bool is_oracle(size_t arm) const { return requests_[arm].policy == "oracle"; }
  const CacheChoice& cache_for(size_t arm, int64_t tokens);
  const CacheChoice& cache_for(size_t arm, const ScoreText& text);
  std::vector<std::vector<TextScore>> score_with(size_t arms, std::span<const ScoreText> texts);

  const ModelData& model_;
  EngineArguments arguments_;
  std::vector<CacheRequest> requests_;
  std::vector<Arm> arms_;
  Engine engine_;
  /// By length, where budgets depend on it. Oracles among them know nothing yet.
  std::vector<std::map<int64_t, CacheChoice>> caches_;
};

}  // namespace ashlar::cli
