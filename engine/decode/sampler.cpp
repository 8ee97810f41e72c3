#include "engine/decode/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "kernels/elementwise.h"

namespace ashlar {

Sampler::Sampler(const SamplingOptions& options) : options_(options) {
  require(options.temperature >= 0 && options.temperature <= 100, ErrorCode::kRequest,
          "--temperature: {} is not between 0 and 100", options.temperature);
  require(options.top_k >= 0, ErrorCode::kRequest, "--top-k: {} is negative", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, ErrorCode::kRequest,
          "--top-p: {} is not in (0, 1]", options.top_p);
}

int32_t Sampler::pick(std::span<const float> logits, uint64_t step) {
  const auto count = static_cast<int64_t>(logits.size());
  ASHLAR_CHECK_GT(count, 0);
  if (options_.temperature == 0) return static_cast<int32_t>(argmax(logits.data(), count));
  order_.clear();
  for (int64_t i = 0; i < count; ++i) {
    order_.emplace_back(-static_cast<double>(logits[static_cast<size_t>(i)]) / options_.temperature,
                        static_cast<int32_t>(i));
  }
  const int64_t kept = options_.top_k == 0 ? count : std::min(options_.top_k, count);
  std::partial_sort(order_.begin(), order_.begin() + kept, order_.end());
  order_.resize(static_cast<size_t>(kept));
  const double top = order_.front().first;
  double total = 0;
  for (auto& [key, token] : order_) total += key = std::exp(top - key);
  double limit = 0;
  size_t head = 0;
  while (head < order_.size() && (head == 0 || limit < options_.top_p * total)) {
    limit += order_[head++].first;
  }
  double left = Philox(options_.seed).uniform(step) * limit;
  for (size_t i = 0; i < head; ++i) {
    left -= order_[i].first;
    if (left < 0) return order_[i].second;
  }
  return order_[head - 1].second;
}

}  // namespace ashlar
