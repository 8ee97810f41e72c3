#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/report.h"
#include "eval/scorer.h"

namespace ashlar {

struct PerplexityOptions {
  int64_t context = 0;       ///< N, 1 to the scorer's context length
  int64_t stride = 0;        ///< S, 1 to N
  int64_t bootstrap = 1000;  ///< resamples for the interval; 0: none
  uint64_t seed = 0;         ///< of the resamples
};

/// A mean with the bounds of its 95 % interval.
struct Estimate {
  double value = 0, low = 0, high = 0;
};

struct PerplexityResult {
  double nll = 0;  ///< −Σ log p in nats
  int64_t tokens = 0;
  int64_t bytes = 0;  ///< 0: bits per byte are not defined
  int64_t windows = 0;
  Estimate perplexity;     ///< exp(nll / tokens)
  Estimate bits_per_byte;  ///< nll / (ln 2 · bytes)

  /// Metrics `perplexity` and `bits_per_byte` of `task`.
  std::vector<EvalRow> rows(const std::string& task) const;
};

/// Sliding-window perplexity of a token stream that came from `bytes` bytes of text. Windows of N
/// tokens start every S; the first scores all of its tokens, each later one those that no window
/// before it scored (its last S), so every token is scored once with at least N − S tokens before
/// it. The interval is a percentile bootstrap over windows (Efron 1979). Throws Error(kRequest) for
/// an empty stream or options out of range, Error(kInternal) for a log-probability that is not
/// finite or positive.
PerplexityResult sliding_perplexity(Scorer& scorer, std::span<const int32_t> tokens, int64_t bytes,
                                    const PerplexityOptions& options);

struct ChunkedPerplexityOptions {
  int64_t context = 512;               ///< tokens per chunk, 3 to the scorer's context length
  int64_t chunks = 0;                  ///< at most; 0: as many as the text holds
  std::optional<int32_t> first_token;  ///< replaces every chunk's first token (BOS)
  int64_t bootstrap = 1000;
  uint64_t seed = 0;
};

/// Perplexity by the protocol of llama.cpp's `llama-perplexity`: the stream is cut into independent
/// chunks of N tokens (a rest is dropped), each is read from nothing, and the tokens behind its
/// middle are scored: positions ⌊N/2⌋ + 1 … N − 1. `tokens` begins with BOS where the model has
/// one. Figures stand beside a peer's at the same N; bits per byte are not defined. The interval is
/// a bootstrap over chunks. Throws Error(kRequest) when the text holds no whole chunk.
PerplexityResult chunked_perplexity(Scorer& scorer, std::span<const int32_t> tokens,
                                    const ChunkedPerplexityOptions& options);

}  // namespace ashlar
