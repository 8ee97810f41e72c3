#pragma once

#include <memory>

#include "engine/model/engine.h"

// A text that is long already, without the time to read it: what the engine's benchmarks begin
// with.

namespace ashlar {

/// SmolLM2-135M's shape: 30 layers, 9 heads, 3 KV heads of 64, d_ff 1536, 49,152 tokens.
ModelSpec smollm_spec(int64_t context);

/// A text in the middle of its prompt: its first `rows` rows are cached, uniform in [−1, 1), the
/// next `to_come` end the prompt. A decoder's, one token a row.
SequenceImage filled_text(const Engine& engine, const CacheOptions& cache,
                          const std::shared_ptr<const Policy>& policy, int64_t rows,
                          int64_t to_come);

/// Seconds to feed `tokens`, after which the policy acts.
double timed_step(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens);

}  // namespace ashlar
