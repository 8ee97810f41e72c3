#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/shards/shard_set.h"

namespace ashlar {

/// How documents are laid out for a Block Transformer (arXiv 2406.02657, its code's
/// tokenized_corpus): each begins with 0…block−1 pads drawn once per document, so that the model
/// sees every alignment of words to blocks, and ends with pads up to a block border.
struct PaddingOptions {
  int64_t block = 0;  ///< L_B; 0: no padding
  /// One whole block of EOS in front of every document: what evaluation puts before a text. Needed
  /// where a document mask hides the block before.
  bool start_block = false;
};

/// A ShardSet's stream with its documents padded to blocks. The pad is the EOS token, as a target
/// it has weight 0. Positions count pads. A pure function of (shards, options, seed).
class PaddedDocuments {
 public:
  /// Keeps a reference to `shards`, which must be a stream that names its EOS.
  PaddedDocuments(const ShardSet& shards, const PaddingOptions& options, uint64_t seed);

  int64_t total_tokens() const { return starts_.back(); }
  int64_t documents() const { return static_cast<int64_t>(starts_.size()) - 1; }
  /// First position of document `index`; documents() gives the end.
  int64_t start(int64_t index) const { return starts_[static_cast<size_t>(index)]; }

  /// Positions [first, first + tokens.size()): tokens, their weights as targets, and the document
  /// each belongs to.
  void read(int64_t first, std::span<int32_t> tokens, std::span<float> weights,
            std::span<int64_t> documents) const;

 private:
  int64_t front(int64_t document) const;  // pads before the text

  const ShardSet& shards_;
  PaddingOptions options_;
  uint64_t seed_;
  int32_t eos_;
  std::vector<int64_t> sources_;  // first stream token of each document, and the end
  std::vector<int64_t> starts_;   // first padded position, and the end
};

}  // namespace ashlar
