// Texts that begin alike share pages (engine/cache/prefix_index.h); pages kept for texts to come
// and other memory of caches is given back when somebody else needs it.

#include "core/base/error.h"
#include "core/io/json.h"
#include "engine/model/engine.h"

namespace ashlar {

void Engine::share(Sequence& sequence, const std::string& tenant) {
  const CacheOptions& o = sequence.cache_->options();
  if (prefixes_ == nullptr || !PrefixIndex::shares(sequence.cache_->policy(), o)) return;
  if (options_.chunk_tokens < spec_.block_length() || sequence.length_ > 0) return;
  // A page holds the heads of its lane. The tenant comes last, so that no choice of a name can look
  // like another cache.
  const Policy* policy = sequence.cache_->policy();
  const bool per_head = policy != nullptr && policy->needs().per_head;
  const std::string scope = write_json(describe(o)) + (per_head ? ":head:" : ":all:") + tenant;
  sequence.chain_.emplace(scope, o.page_rows * spec_.block_length());
}

// Tokens of the item that need not be fed. The last row of a text is never among them, since what
// follows it is wanted.
size_t Engine::take_shared(const StepItem& item) {
  Sequence& sequence = *item.sequence;
  const bool begun = sequence.length_ > 0 || !sequence.pending_.empty();
  if (!sequence.chain_ || begun || item.all_logits != nullptr) return 0;
  const int64_t length = spec_.block_length(), marker = sequence.marker_ ? length : 0;
  PrefixChain chain = *sequence.chain_;
  const std::vector<int32_t> start(static_cast<size_t>(marker), start_token_);
  chain.add(start);
  chain.add(item.tokens);
  const int64_t rows = (marker + static_cast<int64_t>(item.tokens.size())) / length;
  SequenceCache& cache = *sequence.cache_;
  const int64_t per_page = cache.options().page_rows;
  const int64_t pages = prefixes_->match(chain.pages(), (rows - 1) / per_page, cache);
  if (rows < 1 || pages == 0) return 0;
  prefixes_->adopt(chain.pages(), pages, cache);
  const int64_t taken = pages * per_page * length;  // tokens, the marker's included
  sequence.chain_->add(start);
  sequence.chain_->add(item.tokens.first(static_cast<size_t>(taken - marker)));
  sequence.published_ = pages;
  sequence.length_ = spec_.block ? taken - marker : taken;
  sequence.marker_ = false;
  sequence.shared_tokens_ = taken - marker;
  return static_cast<size_t>(taken - marker);
}

// The text has not begun after all: `tokens` were taken, and the marker if there was one.
void Engine::give_back_shared(Sequence& sequence, int64_t tokens) {
  const SequenceCache& cache = *sequence.cache_;
  const int64_t rows = cache.position(groups_[0].id);
  sequence.marker_ = rows * spec_.block_length() > tokens;
  sequence.length_ = sequence.published_ = sequence.shared_tokens_ = 0;
  std::shared_ptr<const Policy> policy = cache.shared_policy();
  sequence.cache_ =
      std::make_unique<SequenceCache>(groups_, cache.options(), std::move(policy), *arena_);
}

void Engine::leave_shared(const Piece& piece) {
  Sequence& sequence = *piece.sequence;
  if (!sequence.chain_) return;
  if (sequence.marker_ && spec_.block) {
    const std::vector<int32_t> start(static_cast<size_t>(spec_.block_length()), start_token_);
    sequence.chain_->add(start);
  }
  sequence.chain_->add(piece.tokens);
  const auto pages = sequence.chain_->pages();
  if (static_cast<int64_t>(pages.size()) == sequence.published_) return;
  sequence.published_ = prefixes_->publish(pages, sequence.published_, *sequence.cache_);
}

GivenBack Engine::give_back(int64_t bytes) {
  ASHLAR_CHECK_GT(bytes, 0);
  const int64_t before = arena_->chunk_bytes_in_use();
  const int64_t waiting = arena_->retired_bytes();
  arena_->retire_bytes(bytes);
  while (prefixes_ != nullptr && arena_->retired_bytes() > waiting && prefixes_->evict_one()) {
  }
  return {before - arena_->chunk_bytes_in_use(), arena_->retired_bytes()};
}

}  // namespace ashlar
