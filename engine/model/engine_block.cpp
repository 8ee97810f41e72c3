// Decoding a Block Transformer (arXiv 2406.02657 §2; docs/architecture.md).
// The global stack sees one row per full block, a block of start tokens first. The block under way
// is decoded by the local stack from the context made from the last full block's state and its
// tokens so far: [prefix, tokens], or [start token, tokens] with the context added to the rows or
// read by cross-attention. Its L_B-th token is never fed there: what follows it is predicted by the
// next block's first rows.

#include <algorithm>

#include "core/base/error.h"
#include "engine/model/engine.h"
#include "kernels/elementwise.h"

namespace ashlar {

// What the local stack runs for one block in this step: the front of a fresh block (its prefix, or
// the start token), if context >= 0, then tokens.
struct Engine::BlockJob {
  LocalBlock* block = nullptr;
  std::unique_ptr<LocalBlock> owned;  // for blocks that are complete after this step
  int64_t context = -1;               // row of the global output its context is made from
  std::vector<int32_t> tokens;
  int64_t front_rows = 0;
  std::vector<std::pair<int64_t, float*>> logits;  // (row of this job, destination)

  int64_t rows() const { return front_rows + static_cast<int64_t>(tokens.size()); }
};

void Engine::step_block(std::span<const Piece> pieces) {
  std::vector<int64_t> first_block;
  const std::vector<float> states = run_global(pieces, first_block);
  std::vector<BlockJob> jobs = plan_local(pieces, first_block);
  run_local(jobs, states);
}

// Runs the global stack over every block the pieces complete; returns its normalised states, one
// row a block. first_block[i]: row of piece i's first block (its start block for a new text).
std::vector<float> Engine::run_global(std::span<const Piece> pieces,
                                      std::vector<int64_t>& first_block) {
  const StackSpec& stack = spec_.stacks[0];
  const StackWeights& weights = weights_->stacks()[0];
  const int64_t length = spec_.block->length;
  std::vector<StackItem> items;
  std::vector<SequenceCache*> caches;
  std::vector<int32_t> tokens;
  int64_t rows = 0;
  for (const Piece& piece : pieces) {
    Sequence& sequence = *piece.sequence;
    first_block.push_back(rows);
    std::vector<int32_t> text;
    if (sequence.marker_) text.assign(static_cast<size_t>(length), start_token_);
    text.insert(text.end(), sequence.pending_.begin(), sequence.pending_.end());
    text.insert(text.end(), piece.tokens.begin(), piece.tokens.end());
    const int64_t blocks = static_cast<int64_t>(text.size()) / length;
    if (blocks == 0) {
      if (piece.acts && sequence.cache_->unsettled()) settle(*sequence.cache_);
      continue;
    }
    tokens.insert(tokens.end(), text.begin(), text.begin() + blocks * length);
    items.push_back(
        {sequence.cache_.get(), rows, blocks, sequence.cache_->position(groups_[0].id)});
    caches.push_back(sequence.cache_.get());
    rows += blocks;
  }
  std::vector<float> x(static_cast<size_t>(rows * stack.d_model));
  if (rows == 0) return x;
  embed_blocks(tokens, rows, x.data());
  run_stack(stack_model(0), items, x.data(), rows, work_, *pool_, closer(caches));
  norm_rows(x.data(), weights.final_norm, stack.final_norm, rows, stack.d_model, x.data(), *pool_);
  return x;
}

// A prompt has ended without completing a block: the policy acts on the rows it has.
void Engine::settle(SequenceCache& cache) {
  SequenceCache* const caches[] = {&cache};
  for (const KvGroup& group : groups_) {
    if (group.lifetime == KvLifetime::kSequence) SequenceCache::close(caches, group.id);
  }
}

// Which blocks the local stack must run: always the block under way after the step, and every block
// the tokens touch when their logits are wanted.
std::vector<Engine::BlockJob> Engine::plan_local(std::span<const Piece> pieces,
                                                 std::span<const int64_t> first_block) {
  const BlockSpec& block = *spec_.block;
  const int64_t length = block.length;
  const int64_t front = block.context == ContextKind::kPrefix ? block.prefix_length : 1;
  std::vector<BlockJob> jobs;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    Sequence& sequence = *piece.sequence;
    const bool fresh = sequence.marker_;
    const auto before = static_cast<int64_t>(sequence.pending_.size());
    std::vector<int32_t> text = sequence.pending_;
    text.insert(text.end(), piece.tokens.begin(), piece.tokens.end());
    const int64_t total = static_cast<int64_t>(text.size()), full = total / length;
    for (int64_t b = 0; b <= full; ++b) {
      const bool under_way = b == full;
      if (!under_way && piece.all_logits == nullptr) continue;
      const bool continues = b == 0 && !fresh;
      BlockJob job;
      if (!continues) {
        // Block b's context is the block before it; a new text's start block has row
        // first_block[i].
        job.context = first_block[i] + b - (fresh ? 0 : 1);
        job.front_rows = front;
      }
      const int64_t begin = b * length + (continues ? before : 0);
      const int64_t end = under_way ? total : (b + 1) * length - 1;
      if (begin < end) job.tokens.assign(text.begin() + begin, text.begin() + end);
      if (continues && under_way) {
        job.block = sequence.local_.get();
      } else if (continues) {
        job.owned = std::move(sequence.local_);
        job.block = job.owned.get();
      } else {
        auto fresh_block = std::make_unique<LocalBlock>(groups_, block.local_positions());
        job.block = fresh_block.get();
        (under_way ? sequence.local_ : job.owned) = std::move(fresh_block);
      }
      // Logits after token t−1 come from this block for t = b·L_B … : the last front row
      // for the first.
      if (piece.all_logits != nullptr) {
        const int64_t last = under_way ? total : (b + 1) * length - 1;
        for (int64_t t = std::max(b * length, before + 1); t <= last; ++t) {
          const int64_t row = job.front_rows + (t - begin) - 1;
          job.logits.emplace_back(row, piece.all_logits + (t - 1 - before) * spec_.vocab_size);
        }
      }
      if (under_way && piece.last && job.rows() > 0) {
        sequence.next_logits_.resize(static_cast<size_t>(spec_.vocab_size));
        job.logits.emplace_back(job.rows() - 1, sequence.next_logits_.data());
      }
      if (job.rows() > 0) jobs.push_back(std::move(job));
    }
    sequence.length_ += static_cast<int64_t>(piece.tokens.size());
    sequence.pending_.assign(text.begin() + full * length, text.end());
  }
  return jobs;
}

// The context rows of all fresh blocks in one product, [fresh, context_rows, d_local].
std::vector<float> Engine::expand(const std::vector<BlockJob>& jobs,
                                  std::span<const float> states) {
  const int64_t global_width = spec_.stacks[0].d_model;
  std::vector<float> fresh;
  for (const BlockJob& job : jobs) {
    if (job.context < 0) continue;
    const float* state = states.data() + job.context * global_width;
    fresh.insert(fresh.end(), state, state + global_width);
  }
  const int64_t count = static_cast<int64_t>(fresh.size()) / global_width;
  const int64_t width = spec_.block->context_rows() * spec_.stacks[1].d_model;
  std::vector<float> contexts(static_cast<size_t>(count * width));
  if (count > 0) {
    apply_linear(*weights_->expansion(), fresh.data(), count, contexts.data(), work_, *pool_);
  }
  return contexts;
}

// The rows of all jobs in stream_; hands each fresh block its context. Returns the number of rows.
int64_t Engine::fill_local(std::vector<BlockJob>& jobs, std::span<const float> contexts,
                           std::vector<StackItem>& items) {
  const ContextKind kind = spec_.block->context;
  const int64_t d = spec_.stacks[1].d_model, context_rows = spec_.block->context_rows();
  const Table& table = weights_->stacks()[1].embedding;
  std::vector<KvStore*> fresh;
  stream_.clear();
  int64_t rows = 0;
  const float* context = contexts.data();
  for (BlockJob& job : jobs) {
    const int64_t first = job.block->kv.rows(), n = job.rows();
    items.push_back({&job.block->kv, rows, n, first});
    stream_.resize(static_cast<size_t>((rows + n) * d));
    float* const begin = stream_.data() + rows * d;
    float* x = begin;
    if (job.context >= 0) {
      if (kind == ContextKind::kPrefix) {
        std::copy_n(context, context_rows * d, x);
      } else {
        table.row(start_token_, x);
      }
      if (kind == ContextKind::kSummation) {
        job.block->context.assign(context, context + context_rows * d);
      }
      fresh.push_back(&job.block->kv);
      context += context_rows * d;
      x += job.front_rows * d;
    }
    for (int32_t token : job.tokens) {
      table.row(token, x);
      x += d;
    }
    if (kind == ContextKind::kSummation) {
      add_inplace(begin, job.block->context.data() + first * d, n * d);
    }
    rows += n;
  }
  if (kind == ContextKind::kCrossAttention) {
    append_contexts(stack_model(1), fresh, contexts.data(), context_rows, work_, *pool_);
  }
  return rows;
}

void Engine::run_local(std::vector<BlockJob>& jobs, std::span<const float> states) {
  const std::vector<float> contexts = expand(jobs, states);
  std::vector<StackItem> items;
  const int64_t rows = fill_local(jobs, contexts, items);
  if (rows == 0) return;
  run_stack(stack_model(1), items, stream_.data(), rows, work_, *pool_, [](int64_t) {});
  std::vector<int64_t> head;
  std::vector<float*> outs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    for (const auto& [row, out] : jobs[i].logits) {
      head.push_back(items[i].row + row);
      outs.push_back(out);
    }
  }
  head_rows(stream_.data(), head, outs);
}

}  // namespace ashlar
