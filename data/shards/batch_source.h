#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "data/shards/padded_documents.h"
#include "data/shards/sample_source.h"
#include "data/shards/shard_set.h"

namespace ashlar {

/// A keyed permutation of [0, size): a pure function of (seed, round, index) without state. Six
/// rounds of a Feistel network with Philox as the round function over the next power of four,
/// walked until the value falls inside (Black & Rogaway 2002, "Ciphers with arbitrary finite
/// domains").
class Permutation {
 public:
  Permutation(uint64_t size, uint64_t seed);
  /// `round` chooses one of 2^56 independent permutations (the epoch); index < size.
  uint64_t operator()(uint64_t round, uint64_t index) const;

 private:
  uint64_t size_;
  uint64_t seed_;
  int half_bits_ = 1;
};

/// Cuts a ShardSet into windows of `context` targets. Target i of the stream is token i, its input
/// token i-1; before the first token stands one EOS, as it does before every other document.
///
/// With padding (training of Block Transformers) the stream is PaddedDocuments' and a window begins
/// where blocks do: its input token i is token i of the window, its target the token behind it.
///
/// Sample k is a pure function of (shards, context, seed, k): epoch k / windows, then a permutation
/// of the windows keyed by (seed, epoch). So the data order does not depend on batches, ranks or
/// resume points; dealing samples out is the caller's.
class BatchSource : public SampleSource {
 public:
  enum class Order {
    kShuffled,    ///< training: whole windows only, another order each epoch
    kSequential,  ///< validation: every token of the stream is a target exactly once
  };
  /// Keeps a reference to `shards`. Throws Error(kRequest) when they hold no whole window (for
  /// training), say no EOS, or fix another sample length.
  BatchSource(const ShardSet& shards, int64_t context, uint64_t seed,
              Order order = Order::kShuffled, const PaddingOptions& padding = {});

  int64_t context() const override { return context_; }
  /// Windows of one epoch. Sequential: the last one may be padded with weight 0.
  int64_t windows() const override { return windows_; }

  using SampleSource::batch;
  /// Sequential: every sample < windows().
  Batch batch(std::span<const int64_t> samples) const override;

 private:
  void fill(int64_t sample, int64_t row, Batch& batch) const;
  void fill_from_documents(int64_t window, std::span<int32_t> tokens, std::span<int32_t> targets,
                           std::span<float> weights, std::span<int32_t> segments) const;
  void fill_from_stream(int64_t window, std::span<int32_t> tokens, std::span<int32_t> targets,
                        std::span<float> weights) const;

  const ShardSet& shards_;
  int64_t context_;
  Order order_;
  int32_t eos_ = 0;
  std::optional<PaddedDocuments> padded_;
  int64_t windows_ = 0;
  Permutation permutation_;
};

}  // namespace ashlar
