#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/config.h"

namespace ashlar {

/// Steps of several ranks: processes of this machine, or one rank of a simulated network.
struct RankOptions {
  std::string shape = "decoder-7M";
  Precision precision = Precision::kFp32;
  int threads = 0;  ///< of each rank; 0: the cores divided
  int64_t steps = 5;
  int64_t ranks = 0;
  int64_t zero = 0;
  std::string reduce = "fp32";
  std::string table, simulate, trace;
  std::string result;  ///< of a rank that was started: where its numbers go
  bool json = false;
  bool wanted() const { return ranks > 0 || !table.empty() || !simulate.empty(); }
};

/// Measures and prints. `arguments` of this process start its ranks. Throws Error.
void measure_ranks(const RankOptions& options, const std::vector<std::string>& arguments);

}  // namespace ashlar
