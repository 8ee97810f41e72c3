#pragma once

#include <vector>

#include "engine/model/engine.h"

namespace ashlar::test {

/// The engine's logits after every token, [n, vocab], all tokens in one feed, fp32 cache.
inline std::vector<float> engine_logits(const ModelData& model,
                                        const std::vector<int32_t>& tokens) {
  Engine engine(model, {});
  const auto sequence = engine.start({CodecKind::kF32, CodecKind::kF32}, nullptr, false);
  std::vector<float> out(tokens.size() * static_cast<size_t>(model.spec.vocab_size));
  const StepItem item{sequence.get(), tokens, true, out.data()};
  engine.feed(std::span(&item, 1));
  return out;
}

}  // namespace ashlar::test
