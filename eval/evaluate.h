#pragma once

#include <functional>
#include <initializer_list>
#include <vector>

#include "eval/item_log.h"
#include "eval/task.h"

namespace ashlar {

struct EvaluateOptions {
  int64_t batch = 1;  ///< texts that are scored at once; never changes results
  BootstrapOptions bootstrap;
  ItemLog* log = nullptr;       ///< items it holds are not scored again; the others are added
  Node settings = Node::map();  ///< of the model; recorded with every row
};

/// Results of every arm and item, [arm][item].
using ArmResults = std::vector<std::vector<ItemResult>>;

/// Items [0, size) in pieces: `run(first, last)` gives every arm's results of consecutive items.
using RunItems = std::function<ArmResults(int64_t first, int64_t last)>;

/// Runs what the log does not hold yet of every arm, `step` items at a time, under a progress bar;
/// results of all items in order. In the log each of several arms is a task of its own,
/// "TASK [LABEL]". An arm's seconds are its even share. `settings`: of the task, without the arms'.
/// Throws what `run` throws; finished items stay in the log.
ArmResults run_items(const std::string& task, const Node& settings, std::span<const Arm> arms,
                     int64_t size, int64_t step, ItemLog* log, const RunItems& run);

/// The keys of all maps in one; of equal keys the last counts.
Node merged(std::initializer_list<Node> maps);

/// Rows of all `metrics` of every arm, arm by arm, with seconds, bytes, settings and figures.
std::vector<EvalRow> rows_of(std::span<const Metric> metrics, std::span<const Arm> arms,
                             const ArmResults& results, const BootstrapOptions& options,
                             const Node& settings);

/// Scores the task's texts with every arm of the scorer and returns a row per arm and metric.
/// Throws Error(kRequest) for a task without
/// items or a text the scorer cannot take, naming the item.
std::vector<EvalRow> evaluate(Scorer& scorer, const EvalTask& task, const EvaluateOptions& options);

}  // namespace ashlar
