#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "data/shards/sample_source.h"

namespace ashlar {

/// A batch as tensors [B, T].
struct BatchTensors {
  at::Tensor tokens, targets;  ///< int64
  at::Tensor weights;          ///< fp32
  at::Tensor begin;            ///< int32: first token each token may attend to; undefined: all
};
/// With `document_mask` attention stays within a document. Shares the memory of the weights.
BatchTensors tensors_of(const Batch& batch, bool document_mask);
/// The same on `device`. On a GPU the ids are checked here against the vocabulary, throwing
/// Error(kData), since kernels cannot; copies go by pinned memory and are not waited for. On a CPU
/// the model checks.
BatchTensors tensors_of(const Batch& batch, bool document_mask, int64_t vocabulary,
                        at::Device device);

/// Samples [first, first + samples) cut into micro-batches and dealt to ranks: in pass p rank r of
/// n has micro-batch p·n + r. Every rank has the same number of passes; where no micro-batch is
/// left it computes its first one with weights 0, since the others need its part of the parameters.
class MicroBatches {
 public:
  MicroBatches(int64_t first, int64_t samples, int64_t micro_batch, int64_t rank, int64_t world);

  int64_t count() const { return count_; }
  int64_t passes() const;
  /// Micro-batches that exist in pass `pass`: those of the first ranks.
  int64_t in_pass(int64_t pass) const;
  /// Whether this rank has one of them.
  bool exists(int64_t pass) const { return number(pass) < count_; }
  /// Sample numbers of this rank's micro-batch.
  std::vector<int64_t> samples(int64_t pass) const;
  /// This rank's micro-batch, weights 0 where none exists.
  Batch read(const SampleSource& source, int64_t pass) const;

 private:
  int64_t number(int64_t pass) const { return pass * world_ + rank_; }
  int64_t first_, samples_, micro_batch_, rank_, world_, count_;
};

}  // namespace ashlar
