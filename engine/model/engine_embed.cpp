// How a block of tokens becomes the global stack's vector (arXiv 2406.02657 §2.2, §3.5).

#include <algorithm>

#include "engine/model/engine.h"
#include "kernels/elementwise.h"

namespace ashlar {

// x [rows, d_global] from tokens [rows, L_B].
void Engine::embed_blocks(std::span<const int32_t> tokens, int64_t rows, float* x) {
  const StackSpec& stack = spec_.stacks[0];
  const StackWeights& weights = weights_->stacks()[0];
  const int64_t length = spec_.block->length;
  const float* pieces = x;
  switch (spec_.block->embedder) {
    case EmbedderKind::kLookup:
      look_up(tokens, x);
      break;
    case EmbedderKind::kProjection:
      stream_.resize(tokens.size() * static_cast<size_t>(weights.embedding.width));
      look_up(tokens, stream_.data());
      pieces = stream_.data();
      break;
    case EmbedderKind::kEncoder:
      pieces = encode_blocks(tokens, rows);
      break;
  }
  if (pieces != x) apply_linear(weights.projection, pieces, rows, x, work_, *pool_);
  if (weights.slots_plan.n == 0) return;
  std::vector<float> scratch(static_cast<size_t>(stack.d_model));
  for (int64_t r = 0; r < rows; ++r) {
    hadamard_apply_strided(weights.slots_plan, x + r * stack.d_model, stack.d_model / length,
                           scratch.data());
  }
}

// The block table's rows of `tokens`, one after the other.
void Engine::look_up(std::span<const int32_t> tokens, float* out) const {
  const Table& table = weights_->stacks()[0].embedding;
  for (int32_t token : tokens) {
    table.row(token, out);
    out += table.width;
  }
}

// The encoder over every block: the outputs at its CLS tokens (without any, at all tokens), [rows,
// pieces·d_encoder].
const float* Engine::encode_blocks(std::span<const int32_t> tokens, int64_t rows) {
  const StackSpec& stack = spec_.stacks[2];
  const StackWeights& weights = weights_->stacks()[2];
  const int64_t length = spec_.block->length, cls = spec_.block->cls_tokens, d = stack.d_model;
  const int64_t width = cls + length;
  stream_.resize(static_cast<size_t>(rows * width * d));
  std::vector<float> position(static_cast<size_t>(d));
  std::vector<StackItem> items;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      float* row = stream_.data() + (r * width + i) * d;
      if (i < cls) {
        weights.cls_tokens.row(i, row);
      } else {
        weights.embedding.row(tokens[static_cast<size_t>(r * length + i - cls)], row);
      }
      weights.positions.row(i, position.data());
      add_inplace(row, position.data(), d);
    }
    const auto block = static_cast<size_t>(r);
    if (block == encoder_kv_.size()) {
      encoder_kv_.push_back(std::make_unique<BlockKv>(encoder_groups_, width));
    }
    encoder_kv_[block]->clear();
    items.push_back({encoder_kv_[block].get(), r * width, width, 0});
  }
  norm_rows(stream_.data(), weights.final_norm, stack.final_norm, rows * width, d, stream_.data(),
            *pool_);
  run_stack(stack_model(2), items, stream_.data(), rows * width, work_, *pool_, [](int64_t) {});
  if (cls == 0) return stream_.data();
  // The CLS rows of each block close up in front.
  for (int64_t r = 1; r < rows; ++r) {
    const float* from = stream_.data() + r * width * d;
    std::copy_n(from, cls * d, stream_.data() + r * cls * d);
  }
  return stream_.data();
}

}  // namespace ashlar
