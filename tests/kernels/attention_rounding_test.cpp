// What rounding queries to bytes costs beside what the codec of the keys has lost: docs/adr/0026.

#include <gtest/gtest.h>

#include "tests/kernels/attention_support.h"

namespace ashlar::test {
namespace {

class AttentionRounding : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, AttentionRounding, ::testing::ValuesIn(supported_isas()),
                         isa_test_name);

double rms(double squares, int64_t n) { return std::sqrt(squares / static_cast<double>(n)); }

/// Sums of squares over the encoded rows of some problems of one query.
struct Squares {
  double error = 0;     ///< of scores, beside the decoded keys
  double expected = 0;  ///< of a query rounded to 1/127 of its largest element, by the ADR
  double codec = 0;     ///< of a key whose elements are off by up to half a step
  double crest = 0;     ///< Σ largest / rms of a query
  int64_t rows = 0, problems = 0;
};

Squares measure(const KernelTable& kernels, CodecKind codec) {
  Squares sums;
  for (uint64_t seed = 900; seed < 1300; seed += 10) {
    AttentionCase c{{{codec, CodecKind::kF16, 96}}, 1, 1, 1, 64, 16};
    c.seed = seed;
    const Problem problem(kernels, c);
    Collected got(c.slots());
    problem.run(0, 1, &got);
    const auto p = got.scores();
    const std::span<const float> q(problem.queries());
    double largest = 0, norm = 0;
    for (const float x : q) {
      largest = std::max<double>(largest, std::abs(x));
      norm += static_cast<double>(x) * x;
    }
    sums.crest += largest / rms(norm, c.key_dim);
    ++sums.problems;
    const auto key = [&](int64_t slot) {
      return std::span<const float>(problem.keys()).subspan(slot * 64, 64);
    };
    const auto score = [&](int64_t slot) {
      double dot = 0;
      for (size_t i = 0; i < 64; ++i) dot += static_cast<double>(q[i]) * key(slot)[i];
      return dot * problem.scale();
    };
    const double unit = problem.scale() / std::sqrt(12.0);
    const auto raw = static_cast<size_t>(c.encoded());
    for (int64_t slot = 0; slot < c.encoded(); ++slot, ++sums.rows) {
      // The raw row's score is exact, and p_j / p_raw = e^(s_j − s_raw).
      const double got_score = std::log(p[static_cast<size_t>(slot)] / p[raw]) + score(c.encoded());
      sums.error += std::pow(got_score - score(slot), 2);
      const auto [low, high] = std::minmax_element(key(slot).begin(), key(slot).end());
      const double middle = (static_cast<double>(*low) + *high) / 2;
      double off = 0;
      for (const float x : key(slot)) off += (x - middle) * (x - middle);
      sums.expected += std::pow(unit * largest / 127, 2) * off;
      sums.codec +=
          std::pow(unit * (static_cast<double>(*high) - *low) / codec_levels(codec), 2) * norm;
    }
  }
  return sums;
}

TEST_P(AttentionRounding, IsSmallBesideWhatTheCodecLost) {
  for (const CodecKind codec : {CodecKind::kQ4, CodecKind::kQ3, CodecKind::kQ2}) {
    const Squares s = measure(kernels(), codec);
    const double error = rms(s.error, s.rows), expected = rms(s.expected, s.rows);
    const Bound bound = statistical(0.15 * expected, 900, s.problems);
    EXPECT_NEAR(error, expected, bound.absolute) << codec_name(codec) << ", " << bound.reason;
    const double codes = std::sqrt((std::pow(codec_levels(codec) + 1.0, 2) - 1) / 12);
    const double crest = s.crest / static_cast<double>(s.problems);
    EXPECT_LT(error, codes / 127 * crest * rms(s.codec, s.rows)) << codec_name(codec);
  }
  // Sixteen bits of q8 cannot be told from none.
  const Squares q8 = measure(kernels(), CodecKind::kQ8);
  EXPECT_LT(rms(q8.error, q8.rows), rms(q8.codec, q8.rows) / 20);
}

}  // namespace
}  // namespace ashlar::test
