#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/decode/sampler.h"
#include "engine/model/engine.h"

namespace ashlar {

struct GenerateRequest {
  std::vector<int32_t> prompt;  ///< without the start marker
  int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::vector<int64_t> stop_tokens;
};

struct GenerateResult {
  std::vector<int32_t> tokens;  ///< generated, the stop token not included
  std::string finish;           ///< "stop", "length", "context" or "interrupted"
  double prompt_seconds = 0;    ///< until the first token could be picked
  double decode_seconds = 0;    ///< for the tokens after the first
};

/// Decodes one sequence. `on_token` is called for every token as it is picked; returning false ends
/// the generation. Throws Error(kRequest) if the prompt does not fit the context.
GenerateResult generate(Engine& engine, Sequence& sequence, const GenerateRequest& request,
                        const std::function<bool(int32_t)>& on_token);

}  // namespace ashlar
