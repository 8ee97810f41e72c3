#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/parameters.h"

// Low-rank adapters (arXiv 2106.09685): W' = W + (alpha/rank)·B·A with A [rank, in], B [out, rank].
// Only A and B are trained. No torch here.

namespace ashlar {

struct LoraSpec {
  int64_t rank = 8;
  double alpha = 16;
  std::vector<std::string> targets;  ///< globs over names of linear maps; see glob_match
  /// What B·A is multiplied by.
  double scale() const { return alpha / static_cast<double>(rank); }
  bool operator==(const LoraSpec&) const = default;
};

/// The adapter of one matrix.
struct LoraAdapter {
  size_t target = 0;   ///< index into the model's parameters
  ParameterSpec down;  ///< A, "<name>.lora_a" [rank, in]
  ParameterSpec up;    ///< B, "<name>.lora_b" [out, rank]
};

/// Reads `{rank, alpha, targets}`. Throws Error(kRequest) "file:line: key: reason", also for a
/// target that matches no linear map of `specs` and a rank above the smaller side of one.
LoraSpec read_lora(const Node& node, std::span<const ParameterSpec> specs);
/// What reads back as the same.
Node lora_node(const LoraSpec& lora);

/// One for every linear map of `specs` (parameters(spec) of a model) that a target matches, in
/// their order.
std::vector<LoraAdapter> lora_adapters(const LoraSpec& lora, std::span<const ParameterSpec> specs);

/// Fresh values of an adapter's matrix: A normal with deviation 1/√in, so that A·x is as large as
/// x, B zero, so that training begins at W. `target` as in LoraAdapter: a value depends only on the
/// seed, the target and the element's index (Philox).
std::vector<float> init_adapter(const ParameterSpec& matrix, size_t target, uint64_t seed);

/// weight [out, in] + scale·up·down, every element summed in double and rounded once. `down`
/// [rank, in], `up` [out, rank].
std::vector<float> merge_adapter(std::span<const float> weight, std::span<const float> down,
                                 std::span<const float> up, int64_t rank, double scale);

}  // namespace ashlar
