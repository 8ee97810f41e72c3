#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/spec/plan.h"
#include "train/config.h"

namespace ashlar {

/// What decides the cost of `config`'s run, with products in bf16 or not.
RunShape run_shape(const TrainConfig& config, bool bf16);

/// "1.23 GiB".
std::string memory_text(double bytes);
/// The plan of one rank by part, largest first: "weights 1.2 GiB, activations …".
std::string memory_parts_text(const TrainingMemory& memory);

/// A change of the configuration and what it would save of TrainingMemory::tensors().
struct MemoryAdvice {
  std::string change;  ///< "train.micro_batch: 4 instead of 8"
  double saved = 0;    ///< bytes
};
/// Changes that save anything, best first.
std::vector<MemoryAdvice> memory_advice(const TrainConfig& config, int64_t ranks);

/// Why memory ran out: the plan's largest part, planned and used bytes, what would help.
/// `used`: most bytes of tensors so far; `reason`: of the allocator.
std::string explain_out_of_memory(const TrainConfig& config, int64_t ranks, int64_t used,
                                  const std::string& reason);

/// Reads a number of bytes: 123, 512MB, 4GiB (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB).
/// Throws Error(kRequest) naming file, line and `key`.
int64_t read_bytes(const Node& node, const std::string& key);

}  // namespace ashlar
