#include "cli/shared_prompt.h"

namespace ashlar::cli {

std::vector<PromptClass> prompt_classes(std::span<const CacheChoice* const> caches) {
  std::vector<PromptClass> classes;
  for (size_t i = 0; i < caches.size(); ++i) {
    const CacheChoice& cache = *caches[i];
    PromptClass* own = nullptr;
    for (PromptClass& known : classes) {
      const CacheChoice& other = *caches[known.members.front()];
      if (cache.options == other.options &&
          Engine::reads_alike(cache.policy.get(), other.policy.get())) {
        own = &known;
      }
    }
    if (own == nullptr) own = &classes.emplace_back();
    own->members.push_back(i);
    // What is read under a policy can go on without one, not the other way round.
    if (own->reader == nullptr || own->reader->policy == nullptr) own->reader = &cache;
  }
  return classes;
}

std::vector<std::unique_ptr<Sequence>> end_prompt(Engine& engine, const PromptClass& of,
                                                  std::span<const CacheChoice* const> caches,
                                                  std::unique_ptr<Sequence> read) {
  std::vector<std::unique_ptr<Sequence>> out;
  if (!of.shared()) {
    out.push_back(std::move(read));
    return out;
  }
  for (const size_t member : of.members) {
    out.push_back(engine.fork(*read, caches[member]->policy));
  }
  return out;
}

}  // namespace ashlar::cli
