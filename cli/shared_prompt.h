#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cli/model_options.h"

namespace ashlar::cli {

/// Caches of one text that read its prompt alike: it is read once for all of them.
struct PromptClass {
  std::vector<size_t> members;          ///< indices of the caches
  const CacheChoice* reader = nullptr;  ///< whose options and policy the prompt is read with
  bool shared() const { return members.size() > 1; }
};

/// Puts `caches` into classes: those of one codec whose policies keep the same lanes and scores
/// (Engine::reads_alike).
std::vector<PromptClass> prompt_classes(std::span<const CacheChoice* const> caches);

/// The members' sequences, in order, once `read` has read the prompt: of a shared class with
/// StepItem::acts false throughout, else as any text. Bit for bit what each gives alone.
std::vector<std::unique_ptr<Sequence>> end_prompt(Engine& engine, const PromptClass& of,
                                                  std::span<const CacheChoice* const> caches,
                                                  std::unique_ptr<Sequence> read);

}  // namespace ashlar::cli
