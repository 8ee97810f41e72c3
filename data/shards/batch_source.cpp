#include "data/shards/batch_source.h"

#include <algorithm>
#include <bit>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr uint64_t kFeistelRounds = 6;
constexpr uint64_t kOrderStream = 0x6f72646572;  // "order": keeps these draws apart from others

int64_t count_windows(const ShardSet& shards, int64_t context, BatchSource::Order order) {
  require(context > 0, ErrorCode::kRequest, "context {}: must be positive", context);
  if (shards.samples() > 0) {
    require(context == shards.sample_length(), ErrorCode::kRequest,
            "{}: holds samples of {} tokens, the context is {}", shards.folder().string(),
            shards.sample_length(), context);
    return shards.samples();
  }
  const int64_t tokens = shards.total_tokens();
  if (order == BatchSource::Order::kSequential) return ceil_div(tokens, context);
  require(tokens >= context, ErrorCode::kRequest, "{}: {} tokens are fewer than one context of {}",
          shards.folder().string(), tokens, context);
  return tokens / context;
}

std::optional<PaddedDocuments> make_padded(const ShardSet& shards, int64_t context, uint64_t seed,
                                           BatchSource::Order order,
                                           const PaddingOptions& padding) {
  if (padding.block == 0) return std::nullopt;
  ASHLAR_CHECK(order == BatchSource::Order::kShuffled && context % padding.block == 0);
  return std::optional<PaddedDocuments>(std::in_place, shards, padding, seed);
}

// The last token of a window's targets is the first of the next one.
int64_t count_padded_windows(const PaddedDocuments& documents, int64_t context) {
  const int64_t windows = (documents.total_tokens() - 1) / context;
  require(windows > 0, ErrorCode::kRequest, "{} padded tokens are fewer than one context of {}",
          documents.total_tokens(), context);
  return windows;
}

}  // namespace

Permutation::Permutation(uint64_t size, uint64_t seed) : size_(size), seed_(seed) {
  ASHLAR_CHECK(size >= 1);
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
}

uint64_t Permutation::operator()(uint64_t round, uint64_t index) const {
  ASHLAR_CHECK_LT(index, size_);
  const Philox random(seed_, kOrderStream + (round << 8));
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = index;
  do {
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint64_t r = 0; r < kFeistelRounds; ++r) {
      const uint64_t mixed = left ^ (random.bits((r << 32) | right) & mask);
      left = right;
      right = mixed;
    }
    value = (left << half_bits_) | right;
  } while (value >= size_);
  return value;
}

BatchSource::BatchSource(const ShardSet& shards, int64_t context, uint64_t seed, Order order,
                         const PaddingOptions& padding)
    : shards_(shards),
      context_(context),
      order_(order),
      padded_(make_padded(shards, context, seed, order, padding)),
      windows_(padded_ ? count_padded_windows(*padded_, context)
                       : count_windows(shards, context, order)),
      permutation_(static_cast<uint64_t>(windows_), seed) {
  require(shards.eos_id().has_value() || shards.samples() > 0, ErrorCode::kRequest,
          "{}: the shards have no attribute 'eos_id'", shards.folder().string());
  eos_ = shards.eos_id().value_or(-1);
}

Batch BatchSource::batch(std::span<const int64_t> samples) const {
  Batch out(samples, context_);
  for (size_t row = 0; row < samples.size(); ++row) {
    fill(samples[row], static_cast<int64_t>(row), out);
  }
  return out;
}

void BatchSource::fill(int64_t sample, int64_t row, Batch& batch) const {
  ASHLAR_CHECK_GE(sample, 0);
  int64_t window = sample;
  if (order_ == Order::kShuffled) {
    window = static_cast<int64_t>(permutation_(static_cast<uint64_t>(sample / windows_),
                                               static_cast<uint64_t>(sample % windows_)));
  }
  ASHLAR_CHECK_LT(window, windows_);
  const auto begin = static_cast<size_t>(row * context_), length = static_cast<size_t>(context_);
  const auto tokens = std::span(batch.tokens).subspan(begin, length);
  const auto targets = std::span(batch.targets).subspan(begin, length);
  const auto weights = std::span(batch.loss_weight).subspan(begin, length);
  const auto segments = std::span(batch.segment_ids).subspan(begin, length);
  if (padded_) return fill_from_documents(window, tokens, targets, weights, segments);
  if (shards_.samples() > 0) {
    shards_.read_sample(window, tokens, targets, weights);
  } else {
    fill_from_stream(window, tokens, targets, weights);
  }
  int32_t segment = 0;
  for (size_t t = 0; t < length; ++t) {
    if (t > 0 && tokens[t] == eos_) ++segment;
    segments[t] = segment;
  }
}

void BatchSource::fill_from_documents(int64_t window, std::span<int32_t> tokens,
                                      std::span<int32_t> targets, std::span<float> weights,
                                      std::span<int32_t> segments) const {
  const size_t length = tokens.size();
  std::vector<int32_t> text(length + 1);
  std::vector<float> weight(length + 1);
  std::vector<int64_t> document(length + 1);
  padded_->read(window * context_, text, weight, document);
  std::copy_n(text.begin(), length, tokens.begin());
  std::copy_n(text.begin() + 1, length, targets.begin());
  std::copy_n(weight.begin() + 1, length, weights.begin());
  for (size_t t = 0; t < length; ++t) {
    segments[t] = static_cast<int32_t>(document[t] - document[0]);
  }
}

void BatchSource::fill_from_stream(int64_t window, std::span<int32_t> tokens,
                                   std::span<int32_t> targets, std::span<float> weights) const {
  const int64_t first = window * context_;
  const int64_t count = std::min(context_, shards_.total_tokens() - first);
  const auto n = static_cast<size_t>(count);
  shards_.read(first, targets.first(n));
  shards_.read_loss_weights(first, weights.first(n));
  tokens[0] = first == 0 ? eos_ : shards_.token(first - 1);
  std::copy_n(targets.begin(), n - 1, tokens.begin() + 1);
  std::fill(tokens.begin() + count, tokens.end(), eos_);
  std::fill(targets.begin() + count, targets.end(), eos_);
  std::fill(weights.begin() + count, weights.end(), 0.0F);
}

}  // namespace ashlar
