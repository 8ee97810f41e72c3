#include "kernels/codec.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/base/rng.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

TEST(Codec, NamesAndBytes) {
  for (const CodecKind kind : kCodecKinds) {
    EXPECT_EQ(codec_from_name(codec_name(kind)), kind);
  }
  EXPECT_EQ(codec_from_name("bf16"), CodecKind::kBF16);
  expect_error(ErrorCode::kRequest, {"'q5'", "fp32, fp16, bf16, q8, q4, q3, q2"},
               [] { codec_from_name("q5"); });
  const int64_t bytes[][3] = {{4, 28, 512}, {2, 14, 256}, {2, 14, 256}, {5, 11, 132},
                              {5, 8, 68},   {6, 7, 52},   {5, 6, 36}};
  for (size_t k = 0; k < std::size(kCodecKinds); ++k) {
    EXPECT_EQ(codec_vector_bytes(kCodecKinds[k], 1), bytes[k][0]);
    EXPECT_EQ(codec_vector_bytes(kCodecKinds[k], 7), bytes[k][1]);
    EXPECT_EQ(codec_vector_bytes(kCodecKinds[k], 128), bytes[k][2]);
  }
}

// Reference 04 E1: key and value of one token and head, parameters included.
TEST(Codec, BytesEqualThePublishedTable) {
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kF16, 64), 256);
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kF16, 128), 512);
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kQ4, 64), 72);
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kQ4, 128), 136);
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kQ8, 64), 136);
  EXPECT_EQ(2 * codec_vector_bytes(CodecKind::kQ8, 128), 264);
}

/// Mean squared error of a codec that keeps `clip` of the range, on rows of normals; parameters in
/// double.
double squared_error(int levels, double clip, int64_t dim) {
  const Philox rng(7);
  const int64_t rows = 3000;
  double error = 0;
  std::vector<double> x(static_cast<size_t>(dim));
  for (int64_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = rng.normal(static_cast<uint64_t>(r) * x.size() + i);
    const auto [lo, hi] = std::minmax_element(x.begin(), x.end());
    const double centre = (*lo + *hi) / 2, half = clip * (*hi - *lo) / 2;
    for (const double v : x) {
      const double step = 2 * half / levels;
      const double code = std::clamp(std::nearbyint((v - centre + half) / step), 0.0, 1.0 * levels);
      error += std::pow(centre - half + step * code - v, 2);
    }
  }
  return error / static_cast<double>(rows * dim);
}

// No other clip is better by more than the two dimensions differ from their mean.
TEST(Codec, ClipsAreTheBestForGaussianRows) {
  const struct {
    CodecKind kind;
    double slack;  // the price of one clip for both dimensions: 1 % and, for q4, QuaRot's 0.95
  } kinds[] = {{CodecKind::kQ8, 0},
               {CodecKind::kQ4, 0.012},
               {CodecKind::kQ3, 0.015},
               {CodecKind::kQ2, 0.015}};
  for (const auto& k : kinds) {
    const int levels = codec_levels(k.kind);
    for (const int64_t dim : {64, 128}) {
      const double own = squared_error(levels, codec_clip(k.kind), dim);
      for (double clip = 0.5; clip < 1.001; clip += 0.05) {
        EXPECT_GE(squared_error(levels, clip, dim) * (1 + k.slack), own)
            << codec_name(k.kind) << " " << dim << " " << clip;
      }
    }
  }
}

}  // namespace
}  // namespace ashlar::test
