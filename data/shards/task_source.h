#pragma once

#include <memory>

#include "data/shards/batch_source.h"
#include "data/shards/sample_source.h"
#include "data/tasks/generator.h"

namespace ashlar {

struct TaskSourceOptions {
  /// Examples 0 … examples − 1 make an epoch and come in another order each; 0: every sample is a
  /// new example.
  int64_t examples = 0;
  uint64_t seed = 0;  ///< of the order
  /// Stands before the first token of a decoder's sample and fills up short examples.
  int32_t eos = 0;
  /// A decoder's sample begins with EOS, as every text it scores; a Block Transformer puts a block
  /// of EOS in front by itself.
  bool marker = true;
};

/// Examples of a generated task as training samples, one a row. Only answers carry weight.
class TaskSource final : public SampleSource {
 public:
  using SampleSource::batch;

  /// Throws Error(kRequest) when an example may be longer than `context`.
  TaskSource(std::unique_ptr<TaskGenerator> task, int64_t context,
             const TaskSourceOptions& options);

  int64_t context() const override { return context_; }
  /// `examples`, or 2^62 where they do not end.
  int64_t windows() const override;
  Batch batch(std::span<const int64_t> samples) const override;
  const TaskGenerator& task() const { return *task_; }

 private:
  std::unique_ptr<TaskGenerator> task_;
  int64_t context_;
  TaskSourceOptions options_;
  Permutation order_;
};

}  // namespace ashlar
