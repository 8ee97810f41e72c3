#pragma once

#include <span>
#include <vector>

#include "engine/model/engine.h"

namespace ashlar::test {

/// One step of one text; the logits behind it. `acts` as StepItem's.
inline std::vector<float> feed(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens,
                               bool acts = true) {
  const StepItem item{&sequence, tokens, acts, nullptr};
  engine.feed(std::span(&item, 1));
  const auto logits = engine.logits(sequence);
  return {logits.begin(), logits.end()};
}

}  // namespace ashlar::test
