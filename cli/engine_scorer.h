#pragma once

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// The engine behind the Scorer interface. Without a policy a text is fed in one prompt; with one
/// it is fed token by token, so that eviction acts at every row, as in decoding.
class EngineScorer final : public Scorer {
 public:
  EngineScorer(const ModelData& model, const EngineArguments& arguments);

  int64_t vocab_size() const override;
  int64_t context_length() const override;
  std::vector<double> token_log_probabilities(std::span<const int32_t> tokens) override;
  std::vector<double> continuation_log_probabilities(std::span<const int32_t> tokens) override;
  std::vector<float> logits(std::span<const int32_t> tokens) override;

 private:
  // Calls visit(i, logits after token i) for every token, in order.
  template <typename Visit>
  void feed(Sequence& sequence, std::span<const int32_t> tokens, Visit&& visit);

  Engine engine_;
  CacheChoice cache_;
};

}  // namespace ashlar::cli
