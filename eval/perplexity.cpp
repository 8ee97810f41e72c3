#include "eval/perplexity.h"

#include <algorithm>
#include <bit>
#include <numbers>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

// Numbers of an item; streaming adds pairs for ranges of positions.
enum Value { kNll, kTokens, kRanges };

double nll_of(std::span<const TokenScore> tokens) {
  double nll = 0;
  for (const TokenScore& token : tokens) nll -= token.log_p;
  return nll;
}

std::vector<int32_t> part_of(const TokenText& text, int64_t begin, int64_t end) {
  return {text.tokens.begin() + begin, text.tokens.begin() + end};
}

class Perplexity : public EvalTask {
 public:
  explicit Perplexity(TokenText text) : text_(std::move(text)) {
    require(!text_.tokens.empty() && text_.bytes > 0, ErrorCode::kRequest, "{}: the text is empty",
            text_.name);
  }
  const std::string& name() const override { return text_.name; }
  std::vector<double> measure(int64_t, std::span<const TextScore> scores) const override {
    const auto& tokens = scores[0].tokens;
    return {nll_of(tokens), static_cast<double>(tokens.size())};
  }

 protected:
  int64_t length() const { return static_cast<int64_t>(text_.tokens.size()); }
  Metric perplexity() const {
    return {text_.name, "perplexity", 0, size(), kNll, kTokens, Transform::kExp, 1, true};
  }
  /// nats per token → bits per byte, which is the same mean in the text's own units.
  Metric bits_per_byte() const {
    const double tokens_per_byte =
        static_cast<double>(text_.tokens.size()) / static_cast<double>(text_.bytes);
    return {text_.name,
            "bits_per_byte",
            0,
            size(),
            kNll,
            kTokens,
            Transform::kPlain,
            tokens_per_byte / std::numbers::ln2,
            /*lower_is_better=*/true};
  }

  TokenText text_;
};

class Sliding final : public Perplexity {
 public:
  Sliding(TokenText text, int64_t context, int64_t stride)
      : Perplexity(std::move(text)), context_(context), stride_(stride) {
    require(context >= 1, ErrorCode::kRequest, "context {}: must be positive", context);
    require(stride >= 1 && stride <= context, ErrorCode::kRequest,
            "stride {}: must be 1 to the context of {}", stride, context);
  }
  Node settings() const override {
    return Node::Map{{"protocol", "sliding"}, {"context", context_}, {"stride", stride_}};
  }
  int64_t size() const override {
    return 1 + ceil_div(std::max<int64_t>(0, length() - context_), stride_);
  }
  std::vector<ScoreText> texts(int64_t item) const override {
    const int64_t begin = item * stride_, end = std::min(begin + context_, length());
    const int64_t scored = item == 0 ? 0 : begin - stride_ + context_;  // before this window
    ScoreText text;
    text.tokens = part_of(text_, begin, end);
    text.scored = scored - (item == 0 ? 0 : begin);
    return {std::move(text)};
  }
  std::vector<Metric> metrics() const override { return {perplexity(), bits_per_byte()}; }

 private:
  int64_t context_, stride_;
};

class Chunked final : public Perplexity {
 public:
  Chunked(TokenText text, const ChunkedPerplexityOptions& options)
      : Perplexity(std::move(text)), options_(options) {
    const int64_t n = options.context;
    require(n >= 3, ErrorCode::kRequest, "context {}: a chunk needs three tokens", n);
    require(length() >= n, ErrorCode::kRequest, "the text has {} tokens, a chunk {}", length(), n);
  }
  Node settings() const override {
    return Node::Map{{"protocol", "llama"}, {"context", options_.context}, {"chunks", size()}};
  }
  int64_t size() const override {
    const int64_t whole = length() / options_.context;
    return options_.chunks > 0 ? std::min(options_.chunks, whole) : whole;
  }
  std::vector<ScoreText> texts(int64_t item) const override {
    const int64_t n = options_.context;
    ScoreText text;
    text.tokens = part_of(text_, item * n, (item + 1) * n);
    if (options_.first_token) text.tokens[0] = *options_.first_token;
    text.scored = n / 2 + 1;
    text.marker = false;
    return {std::move(text)};
  }
  std::vector<Metric> metrics() const override { return {perplexity()}; }

 private:
  ChunkedPerplexityOptions options_;
};

class Streaming final : public Perplexity {
 public:
  Streaming(TokenText text, int64_t context, int64_t prompt)
      : Perplexity(std::move(text)), context_(context), prompt_(prompt) {
    require(prompt >= 0 && prompt < context, ErrorCode::kRequest,
            "prompt of {} tokens: must be 0 to less than the context of {}", prompt, context);
    require(length() > prompt, ErrorCode::kRequest,
            "{}: the text has {} tokens, nothing behind a prompt of {}", text_.name, length(),
            prompt);
    ranges_ = static_cast<size_t>(range_of(std::min(context, length()) - 1)) + 1;
  }
  Node settings() const override {
    return Node::Map{{"protocol", "streaming"}, {"context", context_}, {"prompt", prompt_}};
  }
  int64_t size() const override {
    const int64_t rest = length() % context_;
    return length() / context_ + (rest > prompt_ ? 1 : 0);
  }
  std::vector<ScoreText> texts(int64_t item) const override {
    const int64_t begin = item * context_;
    ScoreText text;
    text.tokens = part_of(text_, begin, std::min(begin + context_, length()));
    text.scored = text.prompt = prompt_;
    return {std::move(text)};
  }
  std::vector<double> measure(int64_t item, std::span<const TextScore> scores) const override {
    std::vector<double> values = Perplexity::measure(item, scores);
    values.resize(kRanges + 2 * ranges_, 0.0);
    int64_t position = prompt_;
    for (const TokenScore& token : scores[0].tokens) {
      const size_t at = kRanges + 2 * static_cast<size_t>(range_of(position++));
      values[at] -= token.log_p;
      values[at + 1] += 1;
    }
    return values;
  }
  std::vector<Metric> metrics() const override {
    std::vector<Metric> out{perplexity(), bits_per_byte()};
    const int64_t last = std::min(context_, length()) - 1;
    for (int r = range_of(prompt_); r < static_cast<int>(ranges_); ++r) {
      const int64_t begin = std::max(prompt_, r == 0 ? 0 : kFirstRange << (r - 1));
      const int64_t end = std::min(last, (kFirstRange << r) - 1);
      Metric metric = perplexity();
      metric.name = fmt::format("perplexity[{}…{}]", begin, end);
      metric.numerator = kRanges + 2 * r;
      metric.denominator = metric.numerator + 1;
      out.push_back(std::move(metric));
    }
    return out;
  }

 private:
  static constexpr int64_t kFirstRange = 64;  ///< positions 0…63, then 64…127, 128…255, …
  static int range_of(int64_t position) {
    return std::bit_width(static_cast<uint64_t>(position / kFirstRange));
  }
  int64_t context_, prompt_;
  size_t ranges_ = 0;
};

}  // namespace

std::unique_ptr<EvalTask> sliding_perplexity(TokenText text, int64_t context, int64_t stride) {
  return std::make_unique<Sliding>(std::move(text), context, stride);
}

std::unique_ptr<EvalTask> chunked_perplexity(TokenText text,
                                             const ChunkedPerplexityOptions& options) {
  return std::make_unique<Chunked>(std::move(text), options);
}

std::unique_ptr<EvalTask> streaming_perplexity(TokenText text, int64_t context, int64_t prompt) {
  return std::make_unique<Streaming>(std::move(text), context, prompt);
}

}  // namespace ashlar
