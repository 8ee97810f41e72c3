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

void check(const Scorer& scorer, std::span<const int32_t> tokens, int64_t context,
           int64_t bootstrap) {
  require(!tokens.empty(), ErrorCode::kRequest, "perplexity of an empty text");
  require(context >= 1 && context <= scorer.context_length(), ErrorCode::kRequest,
          "context {}: must be 1 to {}", context, scorer.context_length());
  require(bootstrap >= 0, ErrorCode::kRequest, "bootstrap resamples must not be negative");
  for (int32_t token : tokens) {
    require(token >= 0 && token < scorer.vocab_size(), ErrorCode::kRequest,
            "token {} is outside the model's vocabulary of {}", token, scorer.vocab_size());
  }
}

// A rounding error above zero is tolerable, NaN and infinity are not.
double checked(double log_p, int64_t token) {
  require(std::isfinite(log_p) && log_p < 1e-3, ErrorCode::kInternal,
          "log-probability of token {} is {}", token, log_p);
  return log_p;
}

std::vector<Window> slide(Scorer& scorer, std::span<const int32_t> tokens,
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
      window.nll -= checked(log_p[static_cast<size_t>(i)], begin + i);
    }
    nll += window.nll;
    scored = end;
    windows.push_back(window);
    progress.update(scored, fmt::format("{:.3f} nats", nll / static_cast<double>(scored)));
  }
  return windows;
}

/// The 2.5 % and 97.5 % quantiles of nats per token over resampled windows.
std::pair<double, double> interval(const std::vector<Window>& windows, int64_t resamples,
                                   uint64_t seed) {
  std::vector<double> means;
  const Philox random(seed, 0x626f6f74);
  uint64_t draw = 0;
  for (int64_t r = 0; r < resamples; ++r) {
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

PerplexityResult summary(const std::vector<Window>& windows, int64_t bytes, int64_t resamples,
                         uint64_t seed) {
  PerplexityResult result;
  result.bytes = bytes;
  result.windows = static_cast<int64_t>(windows.size());
  for (const Window& window : windows) {
    result.nll += window.nll;
    result.tokens += window.tokens;
  }
  const double mean = result.nll / static_cast<double>(result.tokens);
  std::pair<double, double> bounds{mean, mean};
  if (resamples > 0) bounds = interval(windows, resamples, seed);
  result.perplexity = {std::exp(mean), std::exp(bounds.first), std::exp(bounds.second)};
  if (bytes == 0) return result;
  // Bits per byte is the same mean in other units: the text's tokens per byte are given.
  const double unit =
      static_cast<double>(result.tokens) / (std::numbers::ln2 * static_cast<double>(bytes));
  result.bits_per_byte = {mean * unit, bounds.first * unit, bounds.second * unit};
  return result;
}

}  // namespace

PerplexityResult sliding_perplexity(Scorer& scorer, std::span<const int32_t> tokens, int64_t bytes,
                                    const PerplexityOptions& options) {
  require(bytes > 0, ErrorCode::kRequest, "perplexity of an empty text");
  require(options.stride >= 1 && options.stride <= options.context, ErrorCode::kRequest,
          "stride {}: must be 1 to the context of {}", options.stride, options.context);
  check(scorer, tokens, options.context, options.bootstrap);
  return summary(slide(scorer, tokens, options), bytes, options.bootstrap, options.seed);
}

PerplexityResult chunked_perplexity(Scorer& scorer, std::span<const int32_t> tokens,
                                    const ChunkedPerplexityOptions& options) {
  check(scorer, tokens, options.context, options.bootstrap);
  const int64_t n = options.context, whole = static_cast<int64_t>(tokens.size()) / n;
  require(n >= 3, ErrorCode::kRequest, "context {}: a chunk needs three tokens", n);
  require(whole >= 1, ErrorCode::kRequest, "the text has {} tokens, a chunk {}", tokens.size(), n);
  const int64_t chunks = options.chunks > 0 ? std::min(options.chunks, whole) : whole;
  Progress progress("perplexity", chunks);
  std::vector<Window> windows;
  for (int64_t c = 0; c < chunks; ++c) {
    const auto begin = tokens.begin() + c * n;
    std::vector<int32_t> chunk(begin, begin + n);
    if (options.first_token) chunk[0] = *options.first_token;
    const std::vector<double> log_p = scorer.continuation_log_probabilities(chunk);
    ASHLAR_CHECK_EQ(static_cast<int64_t>(log_p.size()), n - 1);
    Window window;
    window.tokens = n - 1 - n / 2;
    for (int64_t i = n / 2 + 1; i < n; ++i) {
      window.nll -= checked(log_p[static_cast<size_t>(i - 1)], c * n + i);
    }
    windows.push_back(window);
    progress.update(c + 1);
  }
  return summary(windows, 0, options.bootstrap, options.seed);
}

std::vector<EvalRow> PerplexityResult::rows(const std::string& task) const {
  const auto row = [&](const char* metric, const Estimate& e) {
    return EvalRow{task, metric, e.value, tokens, e.low, e.high};
  };
  std::vector<EvalRow> out = {row("perplexity", perplexity)};
  if (bytes > 0) out.push_back(row("bits_per_byte", bits_per_byte));
  return out;
}

}  // namespace ashlar
