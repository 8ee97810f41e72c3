#include "cli/engine_scorer.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace ashlar::cli {
namespace {

// Bounds the buffer of logits.
constexpr int64_t kPieceTokens = 256;

double log_probability(std::span<const float> logits, int32_t token) {
  return static_cast<double>(logits[static_cast<size_t>(token)]) -
         log_sum_exp(logits.data(), static_cast<int64_t>(logits.size()));
}

}  // namespace

EngineScorer::EngineScorer(const ModelData& model, const EngineArguments& arguments)
    : engine_(model, arguments.engine_options()),
      cache_(choose_cache(arguments, model, model.spec.context_length)) {}

int64_t EngineScorer::vocab_size() const { return engine_.spec().vocab_size; }
int64_t EngineScorer::context_length() const { return engine_.spec().context_length; }

template <typename Visit>
void EngineScorer::feed(Sequence& sequence, std::span<const int32_t> tokens, Visit&& visit) {
  const bool evicts = cache_.policy != nullptr;
  const auto vocab = static_cast<size_t>(vocab_size());
  const auto piece = static_cast<size_t>(evicts ? 1 : kPieceTokens);
  std::vector<float> rows(piece * vocab);
  for (size_t begin = 0; begin < tokens.size(); begin += piece) {
    const auto part = tokens.subspan(begin, std::min(piece, tokens.size() - begin));
    const bool last = begin + part.size() == tokens.size();
    const StepItem item{&sequence, part, evicts || last, rows.data()};
    engine_.feed(std::span(&item, 1));
    for (size_t i = 0; i < part.size(); ++i) {
      visit(begin + i, std::span<const float>(rows).subspan(i * vocab, vocab));
    }
  }
}

std::vector<double> EngineScorer::token_log_probabilities(std::span<const int32_t> tokens) {
  std::vector<double> out(tokens.size());
  if (tokens.empty()) return out;
  const auto sequence = engine_.start(cache_.options, cache_.policy);
  const StepItem marker{sequence.get(), {}, cache_.policy != nullptr, nullptr};
  engine_.feed(std::span(&marker, 1));
  out[0] = log_probability(engine_.logits(*sequence), tokens[0]);
  feed(*sequence, tokens.first(tokens.size() - 1), [&](size_t i, std::span<const float> logits) {
    out[i + 1] = log_probability(logits, tokens[i + 1]);
  });
  return out;
}

std::vector<double> EngineScorer::continuation_log_probabilities(std::span<const int32_t> tokens) {
  std::vector<double> out;
  const auto sequence = engine_.start(cache_.options, cache_.policy, /*marker=*/false);
  feed(*sequence, tokens.first(tokens.size() - 1), [&](size_t i, std::span<const float> logits) {
    out.push_back(log_probability(logits, tokens[i + 1]));
  });
  return out;
}

std::vector<float> EngineScorer::logits(std::span<const int32_t> tokens) {
  std::vector<float> out;
  const auto sequence = engine_.start(cache_.options, cache_.policy, /*marker=*/false);
  feed(*sequence, tokens, [&](size_t, std::span<const float> logits) {
    out.insert(out.end(), logits.begin(), logits.end());
  });
  return out;
}

}  // namespace ashlar::cli
