// Texts that go on from one beginning, under one policy or under several.

#include "core/base/error.h"
#include "engine/model/engine.h"

namespace ashlar {

std::unique_ptr<Sequence> Engine::copy_of(const Sequence& sequence,
                                          std::unique_ptr<SequenceCache> cache) const {
  std::unique_ptr<Sequence> copy(new Sequence(std::move(cache)));
  copy->length_ = sequence.length_;
  copy->marker_ = sequence.marker_;
  copy->acted_ = sequence.acted_;
  copy->next_logits_ = sequence.next_logits_;
  copy->pending_ = sequence.pending_;
  if (sequence.local_) copy->local_ = std::make_unique<LocalBlock>(*sequence.local_);
  return copy;
}

std::unique_ptr<Sequence> Engine::fork(const Sequence& sequence) const {
  return copy_of(sequence, sequence.cache_->fork());
}

// Everything a policy changes in a cache before it first acts belongs here.
bool Engine::reads_alike(const Policy* one, const Policy* other) {
  const PolicyNeeds none, &a = one ? one->needs() : none, &b = other ? other->needs() : none;
  if (a.reducer != b.reducer || a.per_head != b.per_head || a.recall != b.recall) return false;
  return a.reducer == ScoreReducer::kNone ||
         (a.head_scores == b.head_scores && a.prompt_rows == b.prompt_rows &&
          a.scored_above == b.scored_above && a.scored_beyond == b.scored_beyond);
}

std::unique_ptr<Sequence> Engine::fork(const Sequence& sequence,
                                       std::shared_ptr<const Policy> policy) {
  const SequenceCache& cache = *sequence.cache_;
  require(!sequence.acted_ && cache.unsettled(), ErrorCode::kRequest,
          "a text goes on under another policy where its prompt ends: this one {}",
          sequence.acted_ ? "has gone on from there, or its policy has acted" : "has read nothing");
  require(reads_alike(cache.policy(), policy.get()), ErrorCode::kRequest,
          "the prompt was read with other scores or lanes than the policy wants: read it again");
  require(cache.policy() != nullptr || policy == nullptr, ErrorCode::kRequest,
          "the prompt was read without a policy, so rows are encoded that the policy would have "
          "dropped before: read it under a policy");
  std::unique_ptr<Sequence> copy = copy_of(sequence, cache.fork(std::move(policy)));
  const StepItem end{copy.get(), {}, true, nullptr};
  admit(std::span(&end, 1));
  settle(*copy->cache_);
  copy->cache_->release_reserve();
  copy->acted_ = true;
  return copy;
}

}  // namespace ashlar
