#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/metric.h"
#include "eval/scorer.h"

namespace ashlar {

/// A list of items. Each is some texts, whose scores become a few numbers; metrics are ratios of
/// sums of these numbers. That is all a task is: batches, progress, resuming, intervals and reports
/// are evaluate()'s.
class EvalTask {
 public:
  virtual ~EvalTask() = default;

  /// As on the command line, such as "lambada:test.jsonl".
  virtual const std::string& name() const = 0;
  /// Everything the numbers depend on beside the scorer.
  virtual Node settings() const = 0;
  virtual int64_t size() const = 0;
  virtual std::vector<ScoreText> texts(int64_t item) const = 0;
  /// As many numbers for every item. `scores` are those of texts(item), in order.
  virtual std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const = 0;
  virtual std::vector<Metric> metrics() const = 0;
};

}  // namespace ashlar
