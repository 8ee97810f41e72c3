#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

struct Window {
  double nll = 0;
  int64_t tokens = 0;
};

void check(const Scorer& scorer, std::span<const int32_t> tokens, int64_t bytes,
           const PerplexityOptions& options) {
  require(!tokens.empty() && bytes > 0, ErrorCode::kRequest, "perplexity of an empty text");
  require(options.context >= 1 && options.context <= scorer.context_length(), ErrorCode::kRequest,
          "context {}: must be 1 to {}", options.context, scorer.context_length());
  require(options.stride >= 1 && options.stride <= options.context, ErrorCode::kRequest,
          "stride {}: must be 1 to the context of {}", options.stride, options.context);
  require(options.bootstrap >= 0, ErrorCode::kRequest, "bootstrap resamples must not be negative");
  for (int32_t token : tokens) {
    require(token >= 0 && token < scorer.vocab_size(), ErrorCode::kRequest,
            "token {} is outside the model's vocabulary of {}", token, scorer.vocab_size());
  }
}

std::vector<Window> score(Scorer& scorer, std::span<const int32_t> tokens,
                          const PerplexityOptions& options) {
  const auto n = static_cast<int64_t>(tokens.size());
  Progress progress("perplexity", n);
  std::vector<Window> windows;
  double nll = 0;
  for (int64_t begin = 0, scored = 0; scored < n; begin += options.stride) {
    const int64_t end = std::min(begin + options.context, n);
    const std::vector<double> log_p = scorer.token_log_probabilities(
        tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    ASHLAR_CHECK_EQ(static_cast<int64_t>(log_p.size()), end - begin);
    Window window;
    window.tokens = end - scored;
    for (int64_t i = scored - begin; i < end - begin; ++i) {
      const double value = log_p[static_cast<size_t>(i)];
      // A rounding error above zero is tolerable, NaN and infinity are not.
      require(std::isfinite(value) && value < 1e-3, ErrorCode::kInternal,
              "log-probability of token {} is {}", begin + i, value);
      window.nll -= value;
    }
    nll += window.nll;
    scored = end;
    windows.push_back(window);
    progress.update(scored, fmt::format("{:.3f} nats", nll / static_cast<double>(scored)));
  }
  return windows;
}

/// The 2.5 % and 97.5 % quantiles of nats per token over resampled windows.
std::pair<double, double> interval(const std::vector<Window>& windows,
                                   const PerplexityOptions& options) {
  std::vector<double> means;
  const Philox random(options.seed, 0x626f6f74);
  uint64_t draw = 0;
  for (int64_t r = 0; r < options.bootstrap; ++r) {
    Window sum;
    for (size_t k = 0; k < windows.size(); ++k) {
      const Window& window = windows[random.below(draw++, windows.size())];
      sum.nll += window.nll;
      sum.tokens += window.tokens;
    }
    means.push_back(sum.nll / static_cast<double>(sum.tokens));
  }
  std::sort(means.begin(), means.end());
  const auto quantile = [&](double q) {
    return means[static_cast<size_t>(std::llround(q * static_cast<double>(means.size() - 1)))];
  };
  return {quantile(0.025), quantile(0.975)};
}

}  // namespace

PerplexityResult sliding_perplexity(Scorer& scorer, std::span<const int32_t> tokens, int64_t bytes,
                                    const PerplexityOptions& options) {
  check(scorer, tokens, bytes, options);
  const std::vector<Window> windows = score(scorer, tokens, options);
  PerplexityResult result;
  result.tokens = static_cast<int64_t>(tokens.size());
  result.bytes = bytes;
  result.windows = static_cast<int64_t>(windows.size());
  for (const Window& window : windows) result.nll += window.nll;
  const double mean = result.nll / static_cast<double>(result.tokens);
  std::pair<double, double> bounds{mean, mean};
  if (options.bootstrap > 0) bounds = interval(windows, options);
  // Bits per byte is the same mean in other units: the text's tokens per byte are given.
  const double unit =
      static_cast<double>(result.tokens) / (std::numbers::ln2 * static_cast<double>(result.bytes));
  result.perplexity = {std::exp(mean), std::exp(bounds.first), std::exp(bounds.second)};
  result.bits_per_byte = {mean * unit, bounds.first * unit, bounds.second * unit};
  return result;
}

std::vector<EvalRow> PerplexityResult::rows(const std::string& task) const {
  const auto row = [&](const char* metric, const Estimate& e) {
    return EvalRow{task, metric, e.value, tokens, e.low, e.high};
  };
  return {row("perplexity", perplexity), row("bits_per_byte", bits_per_byte)};
}

}  // namespace ashlar
