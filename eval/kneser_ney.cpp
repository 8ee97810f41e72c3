#include "eval/kneser_ney.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace ashlar {
namespace {

template <typename Counts>
double discount_of(const Counts& counts) {
  const auto once = static_cast<double>(std::count(counts.begin(), counts.end(), 1));
  const auto twice = static_cast<double>(std::count(counts.begin(), counts.end(), 2));
  return once == 0 ? 0.5 : once / (once + 2 * twice);
}

}  // namespace

KneserNeyBigram::KneserNeyBigram(std::span<const int32_t> tokens, int64_t vocab_size, int32_t start)
    : vocab_size_(vocab_size), start_(start) {
  require(!tokens.empty(), ErrorCode::kRequest, "a bigram model of no tokens");
  const auto checked = [&](int32_t token) {
    require(token >= 0 && token < vocab_size, ErrorCode::kData,
            "token {} is outside the vocabulary of {}", token, vocab_size);
    return token;
  };
  std::vector<uint64_t> pairs;
  pairs.reserve(tokens.size());
  int32_t previous = checked(start);
  for (int32_t token : tokens) {
    pairs.push_back((static_cast<uint64_t>(previous) << 32) |
                    static_cast<uint32_t>(checked(token)));
    previous = token;
  }
  std::sort(pairs.begin(), pairs.end());

  const auto size = static_cast<size_t>(vocab_size);
  std::vector<int64_t> continuations(size, 0);  // N1+(· w)
  row_counts_.assign(size, 0);
  row_begin_.assign(size + 1, 0);
  for (size_t i = 0; i < pairs.size();) {
    size_t end = i;
    while (end < pairs.size() && pairs[end] == pairs[i]) ++end;
    const auto context = static_cast<size_t>(pairs[i] >> 32);
    const auto token = static_cast<int32_t>(pairs[i] & 0xffffffffu);
    followers_.push_back(token);
    counts_.push_back(static_cast<int64_t>(end - i));
    row_counts_[context] += static_cast<int64_t>(end - i);
    ++row_begin_[context + 1];
    ++continuations[static_cast<size_t>(token)];
    i = end;
  }
  for (size_t v = 0; v < size; ++v) row_begin_[v + 1] += row_begin_[v];

  discount_ = discount_of(counts_);
  const double d1 = discount_of(continuations);
  const auto kinds = static_cast<double>(followers_.size());  // N1+(· ·)
  const auto seen = static_cast<double>(
      std::count_if(continuations.begin(), continuations.end(), [](int64_t c) { return c > 0; }));
  const double uniform = d1 * seen / kinds / static_cast<double>(vocab_size);
  for (int64_t c : continuations) {
    unigram_.push_back(std::max(static_cast<double>(c) - d1, 0.0) / kinds + uniform);
  }
}

double KneserNeyBigram::probability(int32_t context, int32_t token) const {
  ASHLAR_CHECK(context >= 0 && context < vocab_size_ && token >= 0 && token < vocab_size_);
  const auto v = static_cast<size_t>(context);
  const double lower = unigram_[static_cast<size_t>(token)];
  if (row_counts_[v] == 0) return lower;
  const auto total = static_cast<double>(row_counts_[v]);
  const auto begin = followers_.begin() + row_begin_[v],
             end = followers_.begin() + row_begin_[v + 1];
  const auto found = std::lower_bound(begin, end, token);
  double seen = 0;
  if (found != end && *found == token) {
    seen =
        static_cast<double>(counts_[static_cast<size_t>(found - followers_.begin())]) - discount_;
  }
  return std::max(seen, 0.0) / total + discount_ * static_cast<double>(end - begin) / total * lower;
}

double KneserNeyBigram::bits(std::span<const int32_t> tokens) const {
  double sum = 0;
  int32_t previous = start_;
  for (int32_t token : tokens) {
    sum -= std::log2(probability(previous, token));
    previous = token;
  }
  return sum;
}

}  // namespace ashlar
