#pragma once

#include <span>
#include <vector>

#include "cli/model_options.h"
#include "eval/scorer.h"

namespace ashlar::cli {

/// Scores texts, each with every cache in its list, all of them at once. caches[t][arm] is what
/// text t is read with; every text has as many. Prompts are read once for the caches that share
/// them (shared_prompt.h). Returns [arm][text]; nothing depends on what is read together.
std::vector<std::vector<TextScore>> read_texts(
    Engine& engine, std::span<const ScoreText> texts,
    std::span<const std::vector<const CacheChoice*>> caches);

}  // namespace ashlar::cli
