#include "engine/decode/generate.h"

#include <algorithm>
#include <chrono>

#include "core/base/error.h"

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

GenerateResult generate(Engine& engine, Sequence& sequence, const GenerateRequest& request,
                        const std::function<bool(int32_t)>& on_token) {
  require(request.max_tokens >= 0, ErrorCode::kRequest, "--max-tokens: {} is negative",
          request.max_tokens);
  Sampler sampler(request.sampling);
  GenerateResult result;
  result.finish = "length";
  const auto start = Clock::now();
  const StepItem prompt{&sequence, request.prompt, true, nullptr};
  engine.feed(std::span(&prompt, 1));
  result.prompt_seconds = seconds_since(start);
  const auto decode = Clock::now();
  while (static_cast<int64_t>(result.tokens.size()) < request.max_tokens) {
    const int32_t token = sampler.pick(engine.logits(sequence), result.tokens.size());
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) !=
        request.stop_tokens.end()) {
      result.finish = "stop";
      break;
    }
    result.tokens.push_back(token);
    if (!on_token(token)) {
      result.finish = "interrupted";
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) == request.max_tokens) break;
    if (sequence.length() == engine.spec().context_length) {
      result.finish = "context";
      break;
    }
    const StepItem next{&sequence, std::span(&result.tokens.back(), 1), true, nullptr};
    engine.feed(std::span(&next, 1));
  }
  result.decode_seconds = seconds_since(decode);
  return result;
}

}  // namespace ashlar
