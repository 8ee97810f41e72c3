#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ashlar {

/// Interpolated Kneser–Ney bigram model (Chen & Goodman, "An empirical study of smoothing
/// techniques for language modeling", 1999, section 2.8), with one discount per order: the baseline
/// that a trained network must beat.
///
///   p(w | v) = max(c(v w) − D, 0) / c(v ·) + D · N1+(v ·) / c(v ·) · p1(w)
///   p1(w)    = max(N1+(· w) − D1, 0) / N1+(· ·) + D1 · |{w : N1+(· w) > 0}| / N1+(· ·) · 1 / V
///
/// c counts bigrams, N1+(· w) counts the distinct tokens before w, D = n1 / (n1 + 2 n2) with n1, n2
/// the number of bigrams seen once and twice, and D1 the same over the counts N1+(· w). Where n1 is
/// zero the discount is zero and unseen events may get probability zero; it is then taken as 1/2,
/// so that every probability is positive.
class KneserNeyBigram {
 public:
  /// Trains on `tokens`, each in [0, vocab_size); `start` is the context of the first one. Throws
  /// Error(kRequest) for an empty stream, Error(kData) for a token outside the vocabulary.
  KneserNeyBigram(std::span<const int32_t> tokens, int64_t vocab_size, int32_t start);

  /// p(token | context) > 0; sums to 1 over the vocabulary for every context.
  double probability(int32_t context, int32_t token) const;
  /// −Σ log2 p over a stream, in bits.
  double bits(std::span<const int32_t> tokens) const;
  double discount() const { return discount_; }

 private:
  int64_t vocab_size_;
  int32_t start_;
  double discount_ = 0;
  std::vector<double> unigram_;     ///< p1(w)
  std::vector<int64_t> row_begin_;  ///< bigrams of context v: [row_begin_[v], row_begin_[v + 1])
  std::vector<int32_t> followers_;  ///< sorted within a row
  std::vector<int64_t> counts_;
  std::vector<int64_t> row_counts_;  ///< c(v ·)
};

}  // namespace ashlar
