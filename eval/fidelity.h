#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "eval/evaluate.h"

// How far a compact cache is from a full one, query by query: what task scores cannot show.

namespace ashlar {

/// What one query gave with the cache under test and with a full fp32 cache of the same text.
struct FidelityRow {
  double kl = 0;        ///< KL(full ‖ test) of the next token's distribution, nats
  bool agrees = false;  ///< the most likely next token is the same
  /// ‖o − o_full‖ / ‖o_full‖ over all heads' attention outputs, per layer. Absent for layers the
  /// token did not run: those over blocks, but for a block's last token.
  std::vector<std::optional<double>> output_error;
  /// Per KvGroup: the part of the full cache's attention probability that lies on rows which the
  /// cache under test still holds, mean over heads and readers. 1 where no policy acts; absent as
  /// above.
  std::vector<std::optional<double>> retained_mass;
};

/// Of one text's cache, when its prompt was in and at its end.
struct FidelityBytes {
  int64_t prompt = 0, end = 0;
};

/// Runs the caches side by side.
class FidelityProbe {
 public:
  virtual ~FidelityProbe() = default;
  /// Of the layers whose outputs are compared, such as "layer 3" or "token layer 0".
  virtual std::vector<std::string> layers() const = 0;
  /// Of the cached groups, such as "kv group 1".
  virtual std::vector<std::string> groups() const = 0;
  /// The caches under test.
  virtual std::vector<Arm> arms() const = 0;
  /// Reads `text` as a Scorer does, with every arm and in full, and calls `visit` with every arm
  /// for every token that came one at a time. Returns each arm's bytes.
  virtual std::vector<FidelityBytes> compare(
      const ScoreText& text,
      const std::function<void(size_t arm, const FidelityRow& row)>& visit) = 0;
};

/// Compares the caches on every text of `task` that has tokens behind its prompt; rows of every
/// arm. Metrics per query: `kl`, `top1_agreement`, `retained_mass` and `output_error` over
/// everything, then `retained_mass` by group and `output_error` by layer. Throws Error(kRequest)
/// for a task whose texts are all one prompt.
std::vector<EvalRow> evaluate_fidelity(FidelityProbe& probe, const EvalTask& task,
                                       const EvaluateOptions& options);

}  // namespace ashlar
