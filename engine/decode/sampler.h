#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace ashlar {

/// temperature 0 is greedy. Otherwise: logits/temperature, keep the `top_k` most likely (0: all),
/// then the shortest head of them whose probability reaches `top_p` (Holtzman et al. 2020), then
/// draw.
struct SamplingOptions {
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  uint64_t seed = 0;
};

/// Picks tokens; the choice is a pure function of (options, logits, step).
class Sampler {
 public:
  /// Throws Error(kRequest) for a value out of range.
  explicit Sampler(const SamplingOptions& options);
  /// Ties go to the lower token id.
  int32_t pick(std::span<const float> logits, uint64_t step);

 private:
  SamplingOptions options_;
  std::vector<std::pair<double, int32_t>> order_;
};

}  // namespace ashlar
