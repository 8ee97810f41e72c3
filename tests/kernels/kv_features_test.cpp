#include "kernels/kv_features.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/base/checked.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "kernels/hadamard.h"
#include "tests/kernels/attention_support.h"
#include "tests/kernels/kv_page_support.h"

namespace ashlar::test {
namespace {

constexpr DigestKind kKinds[] = {DigestKind::kCuboidMax,    DigestKind::kCuboidCentre,
                                 DigestKind::kCuboidMean,   DigestKind::kSphereMax,
                                 DigestKind::kSphereCentre, DigestKind::kSphereMean};

std::vector<AttentionCase> feature_cases() {
  std::vector<AttentionCase> list;
  for (const CodecKind codec : kCodecKinds) {
    list.push_back(
        {{{codec, codec, 100, 16, 5}, {CodecKind::kF16, codec, 33, 1}}, 7, 1, 1, 40, 24});
    list.push_back({{{codec, codec, 61, 64}}, 2, 1, 1, 33, 17, 0, false, true});
  }
  list.push_back({{}, 20, 1, 1, 3, 5});
  return list;
}

double double_norm(const float* x, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; ++i) s += static_cast<double>(x[i]) * x[i];
  return std::sqrt(s);
}

/// Sums in double: only the rounding to float is left.
Bound rounded(double norm) { return reordered<float>(1, norm, 1); }

TEST(KvFeatures, NormsDotsAndCosinesMatchTheDoubleReference) {
  for (const AttentionCase& c : feature_cases()) {
    const Problem problem(active_kernels(), c);
    const size_t slots = static_cast<size_t>(c.slots());
    AlignedBytes scratch(kv_features_scratch_bytes(c.key_dim, c.value_dim));
    std::vector<float> keys(slots), values(slots), dots(slots), cosines(slots), alone(slots);
    const float* d = problem.queries().data();
    kv_norms(problem.view(), c.raw, c.key_dim, c.value_dim, keys.data(), values.data(),
             scratch.data());
    kv_norms(problem.view(), c.raw, c.key_dim, c.value_dim, nullptr, alone.data(), scratch.data());
    kv_key_dots(problem.view(), c.raw, c.key_dim, d, dots.data(), scratch.data());
    kv_key_cosines(problem.view(), c.raw, c.key_dim, d, cosines.data(), scratch.data());
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(same_bits(alone, values));
    std::vector<double> key_norms(slots), value_norms(slots), want_dots(slots), want_cosines(slots);
    std::vector<double> mean(static_cast<size_t>(c.key_dim));
    for (size_t s = 0; s < slots; ++s) {
      const float* k = problem.keys().data() + s * static_cast<size_t>(c.key_dim);
      key_norms[s] = double_norm(k, c.key_dim);
      value_norms[s] =
          double_norm(problem.values().data() + s * static_cast<size_t>(c.value_dim), c.value_dim);
      for (int64_t i = 0; i < c.key_dim; ++i) {
        want_dots[s] += static_cast<double>(k[i]) * d[i];
        mean[static_cast<size_t>(i)] += k[i] / key_norms[s] / static_cast<double>(slots);
      }
      want_cosines[s] = want_dots[s] / key_norms[s] / double_norm(d, c.key_dim);
    }
    EXPECT_TRUE(within(keys, key_norms, rounded(20)));
    EXPECT_TRUE(within(values, value_norms, rounded(20)));
    EXPECT_TRUE(within(dots, want_dots, rounded(100)));
    EXPECT_TRUE(within(cosines, want_cosines, rounded(1)));
    std::vector<float> got(mean.size());
    kv_mean_direction(problem.view(), c.raw, c.key_dim, got.data(), scratch.data());
    EXPECT_TRUE(within(got, mean, rounded(1)));
  }
}

TEST(KvFeatures, AZeroKeyHasNoDirection) {
  const std::vector<float> keys = {0, 0, 3, 4};
  KvHeadView kv;
  kv.raw_keys = keys.data();
  kv.raw_key_stride = 2;
  AlignedBytes scratch(kv_features_scratch_bytes(2, 0));
  float mean[2], cosines[2];
  kv_mean_direction(kv, 2, 2, mean, scratch.data());
  EXPECT_EQ(mean[0], 0.3f);
  EXPECT_EQ(mean[1], 0.4f);
  kv_key_cosines(kv, 2, 2, keys.data() + 2, cosines, scratch.data());
  EXPECT_EQ(cosines[0], 0.0f);
  EXPECT_EQ(cosines[1], 1.0f);
}

// Whatever the page size and the first row: every feature and digest, bit for bit.
TEST(KvFeatures, HowRowsLieInPagesDoesNotShow) {
  AttentionCase c{{{CodecKind::kQ4, CodecKind::kQ8, 77, 16}}, 5, 1, 1, 24, 40};
  std::vector<std::vector<float>> want;
  for (const int64_t page_rows : {16, 1, 5, 32, 128}) {
    c.runs[0].page_rows = page_rows;
    c.runs[0].first = page_rows / 2;
    const Problem problem(active_kernels(), c);
    AlignedBytes scratch(kv_features_scratch_bytes(24, 40));
    std::vector<float> all(82 * 3 + 24), digest(48);
    float* p = all.data();
    kv_norms(problem.view(), 5, 24, 40, p, p + 82, scratch.data());
    kv_key_cosines(problem.view(), 5, 24, problem.queries().data(), p + 164, scratch.data());
    kv_mean_direction(problem.view(), 5, 24, p + 246, scratch.data());
    std::vector<std::vector<float>> got = {all};
    for (const DigestKind kind : kKinds) {
      const DigestShape shape{kind, DigestAbout::kCentroid, false, 24};
      std::fill(digest.begin(), digest.end(), 0.0f);
      digest_keys(shape, problem.view(), 30, 50, reinterpret_cast<std::byte*>(digest.data()),
                  scratch.data());
      got.push_back(digest);
    }
    if (want.empty()) want = got;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(same_bits(got[i], want[i])) << "feature " << i << ", pages of " << page_rows;
    }
  }
}

/// [queries, digest_numbers()]
std::vector<float> weights_of(const DigestShape& shape, const float* q, int64_t queries) {
  const int64_t numbers = digest_numbers(shape);
  std::vector<float> w(static_cast<size_t>(queries * numbers));
  for (int64_t h = 0; h < queries; ++h) {
    add_digest_weights(shape, q + h * shape.dim, w.data() + h * numbers);
  }
  return w;
}

/// Raw keys as a view, their digest and its score.
struct Keys {
  int64_t rows, dim;
  std::vector<float> x;

  std::vector<std::byte> digest(const DigestShape& shape) const {
    KvHeadView kv;
    kv.raw_keys = x.data();
    kv.raw_key_stride = dim;
    AlignedBytes scratch(kv_features_scratch_bytes(dim, 0));
    std::vector<std::byte> out(static_cast<size_t>(digest_bytes(shape)) + 1, std::byte{0x5a});
    digest_keys(shape, kv, 0, rows, out.data(), scratch.data());
    EXPECT_EQ(out.back(), std::byte{0x5a});
    EXPECT_TRUE(scratch.intact());
    return out;
  }
  float score(const KernelTable& kernels, DigestShape shape, const float* q) const {
    shape.dim = dim;
    const auto d = digest(shape);
    const auto w = weights_of(shape, q, 1);
    float s = 0;
    digest_dots(kernels, shape.half, digest_numbers(shape), d.data(), digest_bytes(shape), 1,
                w.data(), 1, &s);
    return s;
  }
  double largest(const float* q) const {
    double top = -1e300;
    for (int64_t r = 0; r < rows; ++r) {
      double dot = 0;
      for (int64_t i = 0; i < dim; ++i) {
        dot += static_cast<double>(q[i]) * x[static_cast<size_t>(r * dim + i)];
      }
      top = std::max(top, dot);
    }
    return top;
  }
  double radius() const {
    const auto d = digest({DigestKind::kSphereMax, about, false, dim});
    float r = 0;
    std::memcpy(&r, d.data() + 4 * dim, 4);
    return r;
  }
  DigestAbout about = DigestAbout::kCuboid;
};

class Digests : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, Digests, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST(DigestShapes, BytesEqualThePublishedTable) {
  // Reference 04 E1, a token at pages of 32: 4d/P and 2(d+1)/P.
  EXPECT_EQ(digest_bytes({DigestKind::kCuboidMean, DigestAbout::kCuboid, true, 128}), 32 * 16);
  EXPECT_EQ(digest_bytes({DigestKind::kSphereMax, DigestAbout::kCuboid, true, 64}), 130);
  EXPECT_EQ(digest_bytes({DigestKind::kCuboidMax, DigestAbout::kCuboid, false, 3}), 24);
}

// Reference 04 E2.1, with the spheres of one channel, which are the same intervals.
TEST_P(Digests, ThePageOfTheReference) {
  const Keys keys{5, 1, {0, 2, 2, 2, 4}};
  const float q = 1;
  for (const bool half : {false, true}) {
    const auto score = [&](DigestKind kind) {
      return keys.score(kernels(), {kind, DigestAbout::kCuboid, half, 1}, &q);
    };
    EXPECT_EQ(score(DigestKind::kCuboidMax), 4.0f);
    EXPECT_EQ(score(DigestKind::kCuboidCentre), 3.0f);
    const float mean = half ? half_to_float(float_to_half(2.8f)) : 2.8f;
    EXPECT_EQ(score(DigestKind::kCuboidMean), mean);
    EXPECT_EQ(score(DigestKind::kSphereMax), 4.0f);
    EXPECT_EQ(score(DigestKind::kSphereCentre), 3.0f);
    const float radius = half ? half_to_float(float_to_half(0.8f)) : 0.8f;
    EXPECT_EQ(score(DigestKind::kSphereMean), 2.0f + radius);
  }
}

// E2.1 and E2.2: each max kind bounds the truth, up to the rounding of an fp32 sum; one key alone
// is met exactly by the cuboid.
TEST_P(Digests, MaxKindsBoundEveryKey) {
  for (const int64_t dim : {1, 7, 16, 64, 100}) {
    for (uint64_t seed = 0; seed < 12; ++seed) {
      Keys keys{1 + static_cast<int64_t>(seed) * 3, dim, {}};
      keys.x =
          normals(keys.rows * dim, 50 + seed, std::pow(8.0, static_cast<double>(seed % 5) - 2));
      const auto q = normals(dim, 90 + seed);
      const double truth = keys.largest(q.data());
      const double norm = double_norm(q.data(), dim) * double_norm(keys.x.data(), keys.rows * dim);
      const double slack = reordered<float>(static_cast<double>(dim) / 16 + 6, norm).absolute;
      for (const bool half : {false, true}) {
        for (const DigestAbout about : {DigestAbout::kCuboid, DigestAbout::kCentroid}) {
          EXPECT_GE(keys.score(kernels(), {DigestKind::kCuboidMax, about, half}, q.data()),
                    truth - slack);
          EXPECT_GE(keys.score(kernels(), {DigestKind::kSphereMax, about, half}, q.data()),
                    truth - slack);
        }
      }
      if (keys.rows == 1) {
        EXPECT_NEAR(keys.score(kernels(), {DigestKind::kCuboidMax}, q.data()), truth, slack);
      }
    }
  }
}

// Queries and digests together are each alone, bit for bit, whatever lies between the digests.
TEST_P(Digests, QueriesTogetherScoreAsEachAlone) {
  for (const DigestKind kind : kKinds) {
    for (const int64_t dim : {5, 64, 100}) {
      for (const int64_t queries : {1, 2, 3, 4, 5, 9}) {
        const DigestShape shape{kind, DigestAbout::kCuboid, dim == 64, dim};
        const auto q = normals(queries * dim, 95);
        const int64_t count = 7, stride = digest_bytes(shape) + 6;
        std::vector<std::byte> digests(static_cast<size_t>(count * stride));
        std::vector<float> alone;
        for (int64_t i = 0; i < count; ++i) {
          const Keys keys{4, dim, normals(4 * dim, 100 + static_cast<uint64_t>(i))};
          const auto d = keys.digest(shape);
          std::copy(d.begin(), d.end() - 1, digests.begin() + i * stride);
          for (int64_t h = 0; h < queries; ++h) {
            alone.push_back(keys.score(kernels(), shape, q.data() + h * dim));
          }
        }
        std::vector<float> scores(static_cast<size_t>(count * queries));
        digest_dots(kernels(), shape.half, digest_numbers(shape), digests.data(), stride, count,
                    weights_of(shape, q.data(), queries).data(), queries, scores.data());
        EXPECT_TRUE(same_bits(scores, alone));
      }
    }
  }
}

// The mean over query heads, taken before the product: also of several digests side by side.
TEST_P(Digests, SummedWeightsGiveSummedEstimates) {
  constexpr int64_t kHeads = 3, kShared = 3, kDim = 20;
  for (const DigestKind kind : kKinds) {
    const DigestShape shape{kind, DigestAbout::kCuboid, true, kDim};
    const int64_t numbers = digest_numbers(shape);
    const auto q = normals(kHeads * kShared * kDim, 96);
    std::vector<float> weights(static_cast<size_t>(kHeads * numbers));
    std::vector<std::byte> row;
    double sum = 0, norm = 0;
    for (int64_t head = 0; head < kHeads; ++head) {
      const Keys keys{4, kDim, normals(4 * kDim, 97 + static_cast<uint64_t>(head))};
      const auto d = keys.digest(shape);
      row.insert(row.end(), d.begin(), d.end() - 1);
      for (int64_t h = 0; h < kShared; ++h) {
        const float* const own = q.data() + (head * kShared + h) * kDim;
        add_digest_weights(shape, own, weights.data() + head * numbers);
        sum += static_cast<double>(keys.score(kernels(), shape, own));
        norm += double_norm(own, kDim) * 4 * double_norm(keys.x.data(), 4 * kDim);
      }
    }
    float dot = 0;
    digest_dots(kernels(), true, kHeads * numbers, row.data(), std::ssize(row), 1, weights.data(),
                1, &dot);
    EXPECT_NEAR(dot, sum, reordered<float>(static_cast<double>(numbers), norm).absolute);
  }
}

/// Digests of random numbers, coded, and what their bytes stand for by the words of kv_features.h.
struct Coded {
  Coded(const CodedDigests& d, int64_t n, uint64_t seed)
      : shape(d),
        count(n),
        stride(coded_block_bytes(d) + 32),
        blocks(static_cast<size_t>(ceil_div(n, kCodedDigests) * stride)),
        x(normals(n * d.vectors * d.dim, seed)) {
    for (int64_t i = 0; i < n; ++i) {
      code_digest(shape, block(i), i % kCodedDigests, x.data() + i * d.vectors * d.dim);
    }
  }
  std::byte* block(int64_t i) { return blocks.data() + i / kCodedDigests * stride; }
  /// Number j of vector v of digest i, and the step of its codes.
  double number(int64_t i, int64_t v, int64_t j) {
    const int64_t r = i % kCodedDigests, whole = shape.dim / 4 * 4;
    const std::byte* side = block(i) + v * kCodedDigests * (shape.dim + 4);
    step = half_at(side + 2 * (kCodedDigests + r));
    const int64_t at =
        j < whole ? j / 4 * 4 * kCodedDigests + 4 * r + j % 4 : j * kCodedDigests + r;
    return half_at(side + 2 * r) + step * static_cast<double>(side[4 * kCodedDigests + at]);
  }
  std::vector<float> dots(const KernelTable& kernels, const std::vector<float>& weights) {
    AlignedBytes scratch(coded_scratch_bytes(shape));
    std::vector<float> out(static_cast<size_t>(count) + 1, 7.0f);
    coded_dots(kernels, shape, blocks.data(), stride, count, weights.data(), out.data(),
               scratch.data());
    EXPECT_TRUE(scratch.intact());
    EXPECT_EQ(out.back(), 7.0f);
    out.pop_back();
    return out;
  }

  CodedDigests shape;
  int64_t count, stride;
  std::vector<std::byte> blocks;
  std::vector<float> x;
  double step = 0;
};

// Codes are half a step off at most; products lose half of 1/32639 of the largest weight per code,
// and fp32's roundings of their sums.
TEST_P(Digests, CodedProductsAreThoseOfTheirBytes) {
  uint64_t seed = 200;
  for (const int64_t dim : {1, 3, 4, 7, 16, 30, 64, 100, 128}) {
    for (const int64_t vectors : {1, 2, 3, 6, 9}) {
      for (const int64_t count : {1, 15, 16, 37}) {
        Coded coded({vectors, dim}, count, ++seed);
        const auto weights = normals(vectors * dim, ++seed);
        const auto got = coded.dots(kernels(), weights);
        for (int64_t i = 0; i < count; ++i) {
          double want = 0, norm = 0, rounding = 0;
          for (int64_t v = 0; v < vectors; ++v) {
            const float* w = weights.data() + v * dim;
            double largest = 0;
            for (int64_t j = 0; j < dim; ++j) {
              const double x = coded.number(i, v, j);
              ASSERT_LE(std::abs(x - coded.x[static_cast<size_t>((i * vectors + v) * dim + j)]),
                        quantized(coded.step, 0.5, 0x1p-10 * (1 + std::abs(x))).absolute);
              want += static_cast<double>(w[j]) * x;
              norm += std::abs(static_cast<double>(w[j])) * (std::abs(x) + 255 * coded.step);
              largest = std::max(largest, std::abs(static_cast<double>(w[j])));
            }
            rounding += largest / 2 / 32639 * 255 * coded.step * static_cast<double>(dim);
          }
          const double bound =
              rounding + reordered<float>(static_cast<double>(vectors + dim), norm).absolute;
          ASSERT_NEAR(got[static_cast<size_t>(i)], want, bound)
              << dim << " numbers, " << vectors << " vectors, digest " << i << " of " << count;
        }
      }
    }
  }
}

// Whatever else is asked for with them, and wherever in a block they are.
TEST_P(Digests, CodedProductsDependOnDigestAndWeightsAlone) {
  const CodedDigests shape{6, 20};
  Coded all(shape, 40, 210);
  const auto weights = normals(6 * 20, 211);
  const auto want = all.dots(kernels(), weights);
  for (int64_t i = 0; i < all.count; ++i) {
    Coded alone(shape, 1, 212);
    const float* const x = all.x.data() + i * 6 * 20;
    code_digest(shape, alone.block(0), 0, x);
    EXPECT_EQ(alone.dots(kernels(), weights)[0], want[static_cast<size_t>(i)]) << i;
  }
  // A constant digest has step 0 and is exact but for fp16; weights of nothing give its mins alone.
  const std::vector<float> half(6 * 20, 0.5f), none(6 * 20, 0.0f), one(6 * 20, 1.0f);
  code_digest(shape, all.block(3), 3, half.data());
  EXPECT_EQ(all.dots(kernels(), one)[3], 60.0f);
  EXPECT_EQ(all.dots(kernels(), none)[3], 0.0f);
  auto broken = weights;
  broken[30] = NAN;
  EXPECT_TRUE(std::isnan(all.dots(kernels(), broken)[3]));
}

TEST(DigestShapes, CodedBytes) {
  EXPECT_EQ(coded_block_bytes({2, 64}), 16 * 2 * (64 + 4));
  EXPECT_THROW(coded_block_bytes({0, 64}), Error);
  EXPECT_THROW(code_digest({1, 4}, nullptr, 16, nullptr), Error);
}

// Rounding outwards, number by number.
TEST(DigestRounding, CornersInHalfContainTheKeys) {
  for (const double scale : {1e-6, 1.0, 300.0}) {
    const Keys keys{9, 64, normals(9 * 64, 60, scale)};
    const auto d = keys.digest({DigestKind::kCuboidMax, DigestAbout::kCuboid, true, 64});
    for (size_t i = 0; i < 64; ++i) {
      uint16_t h[2];
      std::memcpy(&h[0], d.data() + 2 * i, 2);
      std::memcpy(&h[1], d.data() + 2 * (64 + i), 2);
      float high = -INFINITY, low = INFINITY;
      for (size_t r = 0; r < 9; ++r) {
        high = std::max(high, keys.x[r * 64 + i]);
        low = std::min(low, keys.x[r * 64 + i]);
      }
      ASSERT_GE(half_to_float(h[0]), high);
      ASSERT_LE(half_to_float(h[1]), low);
      ASSERT_NEAR(half_to_float(h[0]), high,
                  quantized(std::abs(high) * 0x1p-10 + 0x1p-24, 1).absolute);
      ASSERT_NEAR(half_to_float(h[1]), low,
                  quantized(std::abs(low) * 0x1p-10 + 0x1p-24, 1).absolute);
    }
  }
}

// E2.3: in a rotated basis the bounds hold for rotated q; the radius about the centroid stays, the
// one about the cuboid's middle does not.
TEST_P(Digests, RotationKeepsBoundsAndTheCentroidsRadius) {
  const int64_t dim = 64;
  Keys keys{16, dim, normals(16 * dim, 70)};
  for (size_t i = 0; i < keys.x.size(); ++i)
    keys.x[i] *= std::exp(0.3f * static_cast<float>(i % 7));
  auto q = normals(dim, 71);
  const double truth = keys.largest(q.data());
  const auto radius = [&](const Keys& k, DigestAbout about) {
    Keys copy = k;
    copy.about = about;
    return copy.radius();
  };
  Keys rotated = keys;
  const HadamardPlan plan = hadamard_plan(dim);
  std::vector<float> scratch(static_cast<size_t>(dim));
  for (int64_t r = 0; r < keys.rows; ++r) {
    hadamard_apply(plan, rotated.x.data() + r * dim, scratch.data());
  }
  hadamard_apply(plan, q.data(), scratch.data());
  const double centroid = radius(keys, DigestAbout::kCentroid);
  EXPECT_NEAR(radius(rotated, DigestAbout::kCentroid), centroid,
              reordered<float>(6, centroid).absolute);
  const double middle = radius(keys, DigestAbout::kCuboid);
  EXPECT_GT(std::abs(radius(rotated, DigestAbout::kCuboid) - middle), 1e-3 * middle);
  const double slack =
      reordered<float>(16, std::abs(truth) + middle * double_norm(q.data(), dim)).absolute;
  for (const DigestKind kind : {DigestKind::kCuboidMax, DigestKind::kSphereMax}) {
    EXPECT_GE(rotated.score(kernels(), {kind}, q.data()), truth - slack);
  }
}

// All six against their definitions in double.
TEST_P(Digests, MatchTheDoubleReference) {
  const int64_t rows = 11, dim = 21;
  const Keys keys{rows, dim, normals(rows * dim, 80)};
  const auto q = normals(dim, 81);
  std::vector<double> centre(21);
  double sphere[3] = {1e300, 0, 0}, cuboid[3] = {0, 0, 0};
  std::vector<double> distance(static_cast<size_t>(rows));
  for (int64_t i = 0; i < dim; ++i) {
    const auto at = [&](int64_t r) {
      return static_cast<double>(keys.x[static_cast<size_t>(r * dim + i)]);
    };
    double low = 1e300, high = -1e300;
    for (int64_t r = 0; r < rows; ++r) low = std::min(low, at(r)), high = std::max(high, at(r));
    const double c = (low + high) / 2, x = q[static_cast<size_t>(i)];
    double near = 1e300, sum = 0;
    for (int64_t r = 0; r < rows; ++r) {
      near = std::min(near, std::abs(at(r) - c));
      sum += std::abs(at(r) - c);
      distance[static_cast<size_t>(r)] += (at(r) - c) * (at(r) - c);
    }
    const double far = (high - low) / 2;
    const double rho[3] = {far, (near + far) / 2, sum / static_cast<double>(rows)};
    for (int k = 0; k < 3; ++k) cuboid[k] += std::max(x * (c + rho[k]), x * (c - rho[k]));
    centre[static_cast<size_t>(i)] = c;
  }
  double near = 1e300, far = 0, sum = 0, dot = 0;
  for (const double d2 : distance) {
    near = std::min(near, std::sqrt(d2));
    far = std::max(far, std::sqrt(d2));
    sum += std::sqrt(d2);
  }
  for (size_t i = 0; i < 21; ++i) dot += centre[i] * q[i];
  const double norm = double_norm(q.data(), dim);
  sphere[0] = dot + far * norm;
  sphere[1] = dot + (near + far) / 2 * norm;
  sphere[2] = dot + sum / static_cast<double>(rows) * norm;
  const Bound bound = reordered<float>(16, 2 * far * norm);
  for (int k = 0; k < 3; ++k) {
    EXPECT_NEAR(keys.score(kernels(), {kKinds[k]}, q.data()), cuboid[k], bound.absolute);
    EXPECT_NEAR(keys.score(kernels(), {kKinds[3 + k]}, q.data()), sphere[k], bound.absolute);
  }
}

}  // namespace
}  // namespace ashlar::test
