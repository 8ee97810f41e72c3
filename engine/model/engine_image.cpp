// A text being decoded, apart from where its state lies.

#include "core/base/error.h"
#include "engine/model/engine.h"

namespace ashlar {

SequenceImage Engine::image(const Sequence& sequence) const {
  SequenceImage image;
  image.length = sequence.length_;
  image.marker = sequence.marker_;
  image.cache = sequence.cache_->image();
  image.next_logits = sequence.next_logits_;
  image.pending = sequence.pending_;
  if (sequence.local_) {
    image.block = sequence.local_->kv.image();
    image.block_context = sequence.local_->context;
  }
  return image;
}

// Lengths, positions and rows of the block must tell of one and the same text.
void Engine::check_image(const SequenceImage& image, const std::string& what) const {
  const auto ok = [&](bool holds, const char* reason) {
    require(holds, ErrorCode::kData, "{}: {}", what, reason);
  };
  ok(image.length >= 0 && image.length <= spec_.context_length,
     "its length is not within the model's context");
  ok(image.next_logits.size() == (image.marker ? 0 : static_cast<size_t>(spec_.vocab_size)),
     "its logits do not fit the model's vocabulary");
  for (const int32_t token : image.pending) {
    ok(token >= 0 && token < spec_.vocab_size, "a token is outside the model's vocabulary");
  }
  const int64_t length = spec_.block_length();
  ok(static_cast<int64_t>(image.pending.size()) == (spec_.block ? image.length % length : 0),
     "its tokens do not fill up a block");
  ok(image.block.has_value() == (spec_.block.has_value() && !image.marker),
     "it has a block under way that the model has not, or the other way round");
  ok(!image.marker || image.length == 0, "a text that has not begun has a length");
  // A Block Transformer's text begins with a block of start tokens.
  const int64_t rows = image.marker ? 0 : image.length / length + (spec_.block ? 1 : 0);
  ok(image.cache.groups.size() == groups_.size(), "it has other KV groups than the model");
  for (const KvGroup& group : groups_) {
    const auto id = static_cast<size_t>(group.id);
    if (group.lifetime == KvLifetime::kSequence) {
      ok(image.cache.groups[id].position == rows, "its cache is of another length");
    } else if (image.block) {
      const BlockSpec& block = *spec_.block;
      const int64_t front = block.context == ContextKind::kPrefix ? block.prefix_length : 1;
      const int64_t wanted = group.kind == KvKind::kCross
                                 ? block.context_rows()
                                 : front + static_cast<int64_t>(image.pending.size());
      ok(image.block->groups.size() == groups_.size() && image.block->groups[id].rows == wanted,
         "the rows of its block are not those of its tokens");
    }
  }
  if (!image.block) return;
  const bool summed = spec_.block->context == ContextKind::kSummation;
  const int64_t context = summed ? spec_.block->context_rows() * spec_.stacks[1].d_model : 0;
  ok(static_cast<int64_t>(image.block_context.size()) == context,
     "its block's context does not fit the model");
}

std::unique_ptr<Sequence> Engine::resume(const SequenceImage& image, const CacheOptions& cache,
                                         std::shared_ptr<const Policy> policy,
                                         const std::string& what) {
  check_image(image, what);
  std::unique_ptr<Sequence> sequence(
      new Sequence(std::make_unique<SequenceCache>(groups_, cache, std::move(policy), *arena_)));
  sequence->cache_->load(image.cache, what);
  if (image.block) {
    sequence->local_ = std::make_unique<LocalBlock>(groups_, spec_.block->local_positions());
    sequence->local_->kv.load(*image.block, what);
    sequence->local_->context = image.block_context;
  }
  sequence->length_ = image.length;
  sequence->acted_ = true;  // as far as anybody can know
  sequence->marker_ = image.marker;
  sequence->next_logits_ = image.next_logits;
  sequence->pending_ = image.pending;
  return sequence;
}

}  // namespace ashlar
