#include "engine/model/engine.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "kernels/elementwise.h"

namespace ashlar {

namespace {

// The block encoder caches nothing between steps: one group per layer for the rows of a block.
std::vector<KvGroup> encoder_groups(const StackSpec& stack, int64_t index) {
  std::vector<KvGroup> groups;
  for (size_t l = 0; l < stack.layers.size(); ++l) {
    const AttentionSpec& a = stack.layers[l].attention;
    KvGroup group;
    group.id = group.owner = static_cast<int64_t>(l);
    group.stack = index;
    group.readers = {group.owner};
    group.lifetime = KvLifetime::kBlock;
    group.heads = a.kv_heads;
    group.key_dim = group.value_dim = a.head_dim;
    groups.push_back(group);
  }
  return groups;
}

}  // namespace

int64_t Sequence::kv_bytes() const {
  return cache_->bytes().total() + (local_ != nullptr ? local_->bytes() : 0);
}

Engine::Engine(const ModelData& model, const EngineOptions& options)
    : spec_(model.spec),
      groups_(kv_groups(model.spec)),
      options_(options),
      start_token_(model.start_token || !model.stop_tokens.empty() ? marker_token(model) : -1),
      memory_(options.memory != nullptr ? options.memory : make_host_memory(options.memory_budget)),
      pool_(std::make_unique<ThreadPool>(options.threads)) {
  require(options.memory == nullptr || options.memory_budget == 0, ErrorCode::kRequest,
          "a budget of {} bytes for an engine in memory that was handed in: that has its own",
          options.memory_budget);
  require(options.chunk_tokens >= 1, ErrorCode::kRequest, "chunk of {} tokens",
          options.chunk_tokens);
  validate(model, "model");
  for (size_t s = 0; s < spec_.stacks.size(); ++s) {
    const StackSpec& stack = spec_.stacks[s];
    const auto index = static_cast<int64_t>(s);
    if (stack.role == StackRole::kEncoder) {
      encoder_groups_ = encoder_groups(stack, index);
      group_of_layer_.emplace_back();
      for (const KvGroup& group : encoder_groups_) group_of_layer_.back().push_back(group.id);
      continue;
    }
    group_of_layer_.push_back(ashlar::group_of_layer(spec_, index));
    if (spec_.has_cross_attention(stack)) {
      cross_group_of_layer_ = ashlar::group_of_layer(spec_, index, KvKind::kCross);
    }
  }
  weights_ = std::make_unique<WeightStore>(model, options.activation, *memory_);
  arena_ = std::make_unique<Arena>(*memory_, options.backups);
  require(options.prefix_bytes >= 0, ErrorCode::kRequest, "{} bytes for shared pages",
          options.prefix_bytes);
  if (options.prefix_bytes > 0) {
    prefixes_ = std::make_unique<PrefixIndex>(*arena_, options.prefix_bytes);
  }
}

Engine::~Engine() = default;

std::unique_ptr<Sequence> Engine::start(const CacheOptions& cache,
                                        std::shared_ptr<const Policy> policy, bool marker) {
  require(!marker || start_token_ >= 0, ErrorCode::kRequest,
          "the model names neither a start nor a stop token to put in front of a text");
  std::unique_ptr<Sequence> sequence(
      new Sequence(std::make_unique<SequenceCache>(groups_, cache, std::move(policy), *arena_)));
  sequence->marker_ = marker || spec_.block.has_value();
  return sequence;
}

void Engine::check(const StepItem& item) const {
  for (int32_t token : item.tokens) {
    require(token >= 0 && token < spec_.vocab_size, ErrorCode::kRequest,
            "token {} is outside the vocabulary of {}", token, spec_.vocab_size);
  }
  require(item.follow >= 0 && (item.follow == 0 || !item.acts), ErrorCode::kRequest,
          "{} tokens cannot follow a prompt that ends", item.follow);
  const Sequence& sequence = *item.sequence;
  // A decoder's marker takes a position; a Block Transformer's block of them does not count as
  // text.
  const int64_t marker = sequence.marker_ && !spec_.block ? 1 : 0;
  const int64_t total = sequence.length_ + marker + static_cast<int64_t>(item.tokens.size());
  require(total <= spec_.context_length, ErrorCode::kRequest,
          "the text would have {} tokens, the model's context is {}: shorten the prompt", total,
          spec_.context_length);
}

void Engine::prepare(std::span<const StepItem> items) const {
  const int64_t length = spec_.block_length();
  for (const StepItem& item : items) {
    Sequence& sequence = *item.sequence;
    auto tokens = static_cast<int64_t>(item.tokens.size() + sequence.pending_.size());
    if (sequence.marker_) tokens += length;
    sequence.cache_->set_acting(item.acts);
    sequence.cache_->prepare(tokens / length, ceil_div(options_.chunk_tokens, length) + 1);
  }
}

// Memory for all of the items, or none of it. What is only kept for texts to come makes room.
void Engine::admit(std::span<const StepItem> items) {
  for (;;) {
    try {
      return prepare(items);
    } catch (const Error& error) {
      for (const StepItem& item : items) item.sequence->cache_->release_reserve();
      if (error.code() != ErrorCode::kResource || prefixes_ == nullptr) throw;
      constexpr int kPagesAtOnce = 16;
      int evicted = 0;
      while (evicted < kPagesAtOnce && prefixes_->evict_one()) ++evicted;
      if (evicted == 0) throw;
    }
  }
}

// Takes what texts share and memory for the rest; how many tokens of each item need not be fed.
// Leaves no trace when there is no room.
std::vector<size_t> Engine::begin_feed(std::span<const StepItem> items) {
  std::vector<size_t> done;
  std::vector<std::optional<PrefixChain>> chains;
  for (const StepItem& item : items) {
    chains.push_back(item.sequence->chain_);
    done.push_back(take_shared(item));
  }
  try {
    admit(items);
  } catch (...) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (done[i] == 0) continue;
      give_back_shared(*items[i].sequence, static_cast<int64_t>(done[i]));
      items[i].sequence->chain_ = std::move(chains[i]);
    }
    throw;
  }
  return done;
}

// Tells the cache where the item's prompt ends, of which `taken` tokens need not be fed.
void Engine::set_prompt_end(const StepItem& item, size_t taken) const {
  const Sequence& sequence = *item.sequence;
  const int64_t length = spec_.block_length();
  auto tokens = static_cast<int64_t>(item.tokens.size() - taken + sequence.pending_.size());
  if (sequence.marker_) tokens += length;
  SequenceCache& cache = *sequence.cache_;
  cache.set_prompt_end(cache.position(groups_[0].id) + (tokens + item.follow) / length);
}

void Engine::feed(std::span<const StepItem> items) {
  for (const StepItem& item : items) check(item);
  std::vector<size_t> done = begin_feed(items);
  for (size_t i = 0; i < items.size(); ++i) set_prompt_end(items[i], done[i]);
  for (;;) {
    std::vector<Piece> pieces;
    for (size_t i = 0; i < items.size(); ++i) {
      const StepItem& item = items[i];
      Sequence& sequence = *item.sequence;
      if (done[i] == item.tokens.size() && !sequence.marker_) continue;
      const size_t take =
          std::min(item.tokens.size() - done[i], static_cast<size_t>(options_.chunk_tokens));
      Piece piece{&sequence, {}, false, false, nullptr, 0};
      if (sequence.marker_ && !spec_.block) piece.marker = 1;
      if (piece.marker == 1) piece.tokens.push_back(start_token_);
      const auto begin = item.tokens.begin() + static_cast<std::ptrdiff_t>(done[i]);
      piece.tokens.insert(piece.tokens.end(), begin, begin + static_cast<std::ptrdiff_t>(take));
      if (item.all_logits != nullptr) {
        piece.all_logits = item.all_logits + static_cast<int64_t>(done[i]) * spec_.vocab_size;
      }
      done[i] += take;
      piece.last = done[i] == item.tokens.size();
      piece.acts = piece.last && item.acts;
      pieces.push_back(std::move(piece));
    }
    if (pieces.empty()) break;
    for (const Piece& piece : pieces) piece.sequence->cache_->set_acting(piece.acts);
    spec_.block ? step_block(pieces) : step_decoder(pieces);
    for (const Piece& piece : pieces) {
      leave_shared(piece);
      piece.sequence->marker_ = false;
      piece.sequence->acted_ = piece.sequence->acted_ || piece.acts;
    }
  }
  for (const StepItem& item : items) item.sequence->cache_->release_reserve();
}

StackModel Engine::stack_model(size_t stack) const {
  const StackSpec& spec = spec_.stacks[stack];
  const bool encoder = spec.role == StackRole::kEncoder;
  StackModel model{spec,
                   weights_->stacks()[stack],
                   encoder ? encoder_groups_ : groups_,
                   group_of_layer_[stack],
                   {}};
  if (spec_.has_cross_attention(spec)) model.cross_group = cross_group_of_layer_;
  if (!encoder) model.observer = observer_;
  return model;
}

CloseGroup Engine::closer(std::span<SequenceCache* const> caches) const {
  return [caches](int64_t group) { SequenceCache::close(caches, group); };
}

void Engine::head_rows(const float* x, std::span<const int64_t> rows,
                       std::span<float* const> outs) {
  if (rows.empty()) return;
  const StackSpec& stack = spec_.token_stack();
  const auto count = static_cast<int64_t>(rows.size());
  head_in_.resize(static_cast<size_t>(count * stack.d_model));
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(x + rows[static_cast<size_t>(i)] * stack.d_model, stack.d_model,
                head_in_.data() + i * stack.d_model);
  }
  const StackWeights& weights = weights_->stacks()[spec_.block ? 1 : 0];
  norm_rows(head_in_.data(), weights.final_norm, stack.final_norm, count, stack.d_model,
            head_in_.data(), *pool_);
  head_out_.resize(static_cast<size_t>(count * spec_.vocab_size));
  apply_linear(weights_->head(), head_in_.data(), count, head_out_.data(), work_, *pool_);
  if (spec_.logit_softcap > 0) {
    constexpr int64_t kPiece = 4096;
    const int64_t all = count * spec_.vocab_size;
    pool_->parallel_for(ceil_div(all, kPiece), [&](int64_t i, int) {
      softcap(head_out_.data() + i * kPiece, std::min(kPiece, all - i * kPiece),
              spec_.logit_softcap);
    });
  }
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(head_out_.data() + i * spec_.vocab_size, spec_.vocab_size,
                outs[static_cast<size_t>(i)]);
  }
}

void Engine::step_decoder(std::span<const Piece> pieces) {
  const StackSpec& stack = spec_.stacks[0];
  const StackWeights& weights = weights_->stacks()[0];
  std::vector<StackItem> items;
  std::vector<SequenceCache*> caches;
  int64_t rows = 0;
  for (const Piece& piece : pieces) {
    const auto n = static_cast<int64_t>(piece.tokens.size());
    items.push_back({piece.sequence->cache_.get(), rows, n, piece.sequence->length_});
    caches.push_back(piece.sequence->cache_.get());
    rows += n;
  }
  stream_.resize(static_cast<size_t>(rows * stack.d_model));
  float* x = stream_.data();
  for (const Piece& piece : pieces) {
    for (int32_t token : piece.tokens) {
      weights.embedding.row(token, x);
      x += stack.d_model;
    }
  }
  run_stack(stack_model(0), items, stream_.data(), rows, work_, *pool_, closer(caches));
  std::vector<int64_t> head;
  std::vector<float*> outs;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    if (piece.all_logits != nullptr) {
      for (int64_t r = piece.marker; r < items[i].rows; ++r) {
        head.push_back(items[i].row + r);
        outs.push_back(piece.all_logits + (r - piece.marker) * spec_.vocab_size);
      }
    }
    piece.sequence->length_ += items[i].rows;
    if (!piece.last) continue;
    piece.sequence->next_logits_.resize(static_cast<size_t>(spec_.vocab_size));
    head.push_back(items[i].row + items[i].rows - 1);
    outs.push_back(piece.sequence->next_logits_.data());
  }
  head_rows(stream_.data(), head, outs);
}

}  // namespace ashlar
