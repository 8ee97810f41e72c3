// Decoding a Block Transformer (arXiv 2406.02657 §2; docs/architecture.md).
// The global stack sees one row per full block, a block of start tokens first. The block under way
// is decoded by the local stack from [prefix made from the last full block's state, its tokens so
// far]; its L_B-th token is never fed there: what follows it is predicted by the next block's
// prefix.

#include <algorithm>

#include "core/base/error.h"
#include "engine/model/engine.h"
#include "kernels/elementwise.h"

namespace ashlar {

// What the local stack runs for one block in this step: a fresh prefix, if context >= 0, then
// tokens.
struct Engine::BlockJob {
  BlockKv* kv = nullptr;
  std::unique_ptr<BlockKv> owned;  // for blocks that are complete after this step
  int64_t context = -1;            // row of the global output its prefix is made from
  std::vector<int32_t> tokens;
  int64_t prefix_rows = 0;
  std::vector<std::pair<int64_t, float*>> logits;  // (row of this job, destination)
};

void Engine::step_block(std::span<const Piece> pieces) {
  std::vector<int64_t> first_block;
  const std::vector<float> contexts = run_global(pieces, first_block);
  std::vector<BlockJob> jobs = plan_local(pieces, first_block);
  run_local(jobs, contexts);
}

// Runs the global stack over every block the pieces complete; returns its normalised states, one
// row a block. first_block[i]: row of piece i's first block (its start block for a new text).
std::vector<float> Engine::run_global(std::span<const Piece> pieces,
                                      std::vector<int64_t>& first_block) {
  const StackSpec& stack = spec_.stacks[0];
  const StackWeights& weights = weights_->stacks()[0];
  const int64_t length = spec_.block->length, width = stack.d_model / length;
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
      if (piece.acts && sequence.cache_.unsettled()) settle(sequence.cache_);
      continue;
    }
    tokens.insert(tokens.end(), text.begin(), text.begin() + blocks * length);
    items.push_back({&sequence.cache_, rows, blocks, sequence.cache_.position(groups_[0].id)});
    caches.push_back(&sequence.cache_);
    rows += blocks;
  }
  std::vector<float> x(static_cast<size_t>(rows * stack.d_model));
  if (rows == 0) return x;
  std::vector<float> scratch(static_cast<size_t>(stack.d_model));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x.data() + r * stack.d_model;
    for (int64_t s = 0; s < length; ++s) {
      weights.embedding.row(tokens[static_cast<size_t>(r * length + s)], row + s * width);
    }
    if (weights.slots_plan.n != 0) {
      hadamard_apply_strided(weights.slots_plan, row, width, scratch.data());
    }
  }
  run_stack(stack, weights, groups_, group_of_layer_[0], items, x.data(), rows, work_, *pool_,
            closer(caches));
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
  const int64_t length = spec_.block->length, prefix = spec_.block->prefix_length;
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
        job.prefix_rows = prefix;
      }
      const int64_t begin = b * length + (continues ? before : 0);
      const int64_t end = under_way ? total : (b + 1) * length - 1;
      if (begin < end) job.tokens.assign(text.begin() + begin, text.begin() + end);
      if (continues && under_way) {
        job.kv = sequence.local_.get();
      } else if (continues) {
        job.owned = std::move(sequence.local_);
        job.kv = job.owned.get();
      } else {
        auto kv = std::make_unique<BlockKv>(groups_, prefix + length - 1);
        job.kv = kv.get();
        (under_way ? sequence.local_ : job.owned) = std::move(kv);
      }
      // Logits after token t−1 come from this block for t = b·L_B … : row P−1 for the first.
      if (piece.all_logits != nullptr) {
        const int64_t last = under_way ? total : (b + 1) * length - 1;
        for (int64_t t = std::max(b * length, before + 1); t <= last; ++t) {
          const int64_t row = job.prefix_rows + (t - begin) - 1;
          job.logits.emplace_back(row, piece.all_logits + (t - 1 - before) * spec_.vocab_size);
        }
      }
      const int64_t job_rows = job.prefix_rows + static_cast<int64_t>(job.tokens.size());
      if (under_way && piece.last && job_rows > 0) {
        sequence.next_logits_.resize(static_cast<size_t>(spec_.vocab_size));
        job.logits.emplace_back(job_rows - 1, sequence.next_logits_.data());
      }
      if (job_rows > 0) jobs.push_back(std::move(job));
    }
    sequence.length_ += static_cast<int64_t>(piece.tokens.size());
    sequence.pending_.assign(text.begin() + full * length, text.end());
  }
  return jobs;
}

void Engine::run_local(std::vector<BlockJob>& jobs, std::span<const float> contexts) {
  const StackSpec& stack = spec_.stacks[1];
  const StackWeights& weights = weights_->stacks()[1];
  const int64_t global_width = spec_.stacks[0].d_model;
  const int64_t prefix_width = spec_.block->prefix_length * stack.d_model;
  // Prefixes of all fresh blocks in one product.
  std::vector<float> states;
  for (const BlockJob& job : jobs) {
    if (job.context < 0) continue;
    const float* state = contexts.data() + job.context * global_width;
    states.insert(states.end(), state, state + global_width);
  }
  const int64_t fresh = static_cast<int64_t>(states.size()) / global_width;
  std::vector<float> prefixes(static_cast<size_t>(fresh * prefix_width));
  if (fresh > 0) {
    apply_linear(*weights_->expansion(), states.data(), fresh, prefixes.data(), work_, *pool_);
  }
  stream_.clear();
  std::vector<StackItem> items;
  int64_t rows = 0, used = 0;
  for (const BlockJob& job : jobs) {
    const int64_t n = job.prefix_rows + static_cast<int64_t>(job.tokens.size());
    items.push_back({job.kv, rows, n, job.kv->rows()});
    stream_.resize(static_cast<size_t>((rows + n) * stack.d_model));
    float* x = stream_.data() + rows * stack.d_model;
    if (job.context >= 0) {
      x = std::copy_n(prefixes.data() + used++ * prefix_width, prefix_width, x);
    }
    for (int32_t token : job.tokens) {
      weights.embedding.row(token, x);
      x += stack.d_model;
    }
    rows += n;
  }
  if (rows == 0) return;
  run_stack(stack, weights, groups_, group_of_layer_[1], items, stream_.data(), rows, work_, *pool_,
            [](int64_t) {});
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
