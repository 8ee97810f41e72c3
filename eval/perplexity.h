#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/task.h"

// Perplexity of a text under three protocols. Items are windows of the text; each gives the sum of
// −log p in nats and the number of tokens it is over.

namespace ashlar {

/// A text as tokens.
struct TokenText {
  std::string name;  ///< of the task
  std::vector<int32_t> tokens;
  int64_t bytes = 0;  ///< the tokens came from
};

/// Sliding windows. Windows of `context` tokens start every `stride`; the first scores all of its
/// tokens, each later one those that no window before it scored (its last `stride`), so every token
/// is scored once with at least context − stride tokens before it. Metrics: perplexity
/// exp(Σnll / Σtokens) and bits per byte Σnll / (ln 2 · bytes). Every window is one prompt, so no
/// cache policy acts. Throws Error(kRequest) for an empty text or options out of range.
std::unique_ptr<EvalTask> sliding_perplexity(TokenText text, int64_t context, int64_t stride);

struct ChunkedPerplexityOptions {
  int64_t context = 512;               ///< tokens per chunk, at least 3
  int64_t chunks = 0;                  ///< at most; 0: as many as the text holds
  std::optional<int32_t> first_token;  ///< replaces every chunk's first token (BOS)
};

/// The protocol of llama.cpp's `llama-perplexity`: the text is cut into independent chunks of N
/// tokens (a rest is dropped), each is read from nothing, and the tokens behind its middle are
/// scored: positions ⌊N/2⌋ + 1 … N − 1. `text` begins with BOS where the model has one. Figures
/// stand beside a peer's at the same N; bits per byte are not defined. Throws Error(kRequest) when
/// the text holds no whole chunk.
std::unique_ptr<EvalTask> chunked_perplexity(TokenText text,
                                             const ChunkedPerplexityOptions& options);

/// Through the cache: the text is cut into independent segments of `context` tokens (a last,
/// shorter one counts while it is longer than `prompt`). Of each the first `prompt` tokens are read
/// as one prompt and the others, which are scored, one at a time, so that a cache policy acts
/// before every one of them. With a full cache the figures are those of one-shot scoring.
/// Metrics: perplexity and bits per byte over the scored tokens' share of the bytes, and
/// perplexity by position in the segment, in ranges that double. Throws Error(kRequest) for an
/// empty text or options out of range.
std::unique_ptr<EvalTask> streaming_perplexity(TokenText text, int64_t context, int64_t prompt);

}  // namespace ashlar
