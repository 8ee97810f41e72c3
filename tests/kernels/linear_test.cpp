#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/base/error.h"
#include "tests/kernels/kernel_support.h"
#include "tests/kernels/linear_reference.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

constexpr auto kF32Acts = ActivationKind::kF32;
constexpr auto kInt8Acts = ActivationKind::kInt8;

/// Every kind at one size.
std::vector<LinearShape> kinds(int64_t out, int64_t in, int64_t group) {
  std::vector<LinearShape> shapes;
  for (const WeightKind w : {WeightKind::kF32, WeightKind::kF16, WeightKind::kBF16}) {
    shapes.push_back({out, in, 0, w, false, kF32Acts});
  }
  for (const WeightKind w : {WeightKind::kQ8, WeightKind::kQ4}) {
    for (const bool min : {false, true}) {
      for (const ActivationKind a : {kF32Acts, kInt8Acts}) {
        for (const bool wide : {false, true}) shapes.push_back({out, in, group, w, min, a, wide});
      }
    }
  }
  return shapes;
}

struct Size {
  int64_t out, in, group;
};
const Size kSizes[] = {{1, 1, 1},       {3, 5, 2},      {16, 16, 16},   {17, 33, 8},
                       {64, 64, 32},    {65, 172, 5},   {100, 255, 32}, {7, 257, 256},
                       {130, 512, 128}, {33, 600, 600}, {48, 1031, 37}, {5, 4100, 4100}};

class Linear : public PerIsa {
 protected:
  std::vector<float> run(const LinearCase& c, const std::vector<float>& x, int64_t tokens,
                         int threads = 1, bool bias = true) {
    AlignedBytes packed(linear_packed_bytes(c.shape));
    linear_pack(c.shape, c.source(), packed.data());
    EXPECT_TRUE(packed.intact());
    return run_packed(c, packed, x, c.shape.in, tokens, c.shape.out, threads, bias);
  }
  std::vector<float> run_packed(const LinearCase& c, const AlignedBytes& packed,
                                const std::vector<float>& x, int64_t x_stride, int64_t tokens,
                                int64_t y_stride, int threads, bool bias) {
    AlignedBytes scratch(linear_scratch_bytes(kernels(), c.shape, tokens));
    ThreadPool pool(threads);
    std::vector<float> y(static_cast<size_t>(tokens * y_stride), -7.0f);
    linear_run(kernels(), c.shape, packed.data(), bias ? c.bias.data() : nullptr, x.data(),
               x_stride, tokens, y.data(), y_stride, scratch.data(), pool);
    EXPECT_TRUE(scratch.intact()) << describe(c.shape);
    return y;
  }
};
INSTANTIATE_TEST_SUITE_P(Isas, Linear, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST_P(Linear, MatchesTheDoubleReference) {
  for (const Size& size : kSizes) {
    for (const LinearShape& shape : kinds(size.out, size.in, size.group)) {
      const LinearCase c = make_linear(shape);
      for (const int64_t tokens : {1, 3, 14}) {
        const auto x = normals(tokens * shape.in, 20);
        const LinearReference want = reference_linear(c, x, tokens);
        EXPECT_TRUE(within(run(c, x, tokens), want.y, reordered<float>(want.terms, want.norm, 0.5)))
            << describe(shape) << " tokens " << tokens;
      }
    }
  }
}

TEST_P(Linear, OneTokenEqualsManyBitForBit) {
  for (const Size& size : {Size{65, 172, 5}, Size{130, 520, 32}, Size{17, 700, 300}}) {
    for (const LinearShape& shape : kinds(size.out, size.in, size.group)) {
      const LinearCase c = make_linear(shape);
      const int64_t many = 29;
      const auto x = normals(many * shape.in, 21);
      const auto all = run(c, x, many);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 24, 25}) {
        const std::vector<float> some(x.begin(), x.begin() + tokens * shape.in);
        const std::vector<float> want(all.begin(), all.begin() + tokens * shape.out);
        EXPECT_TRUE(same_bits(run(c, some, tokens), want)) << describe(shape) << " × " << tokens;
      }
      const std::vector<float> last(x.end() - shape.in, x.end());
      EXPECT_TRUE(same_bits(run(c, last, 1), {all.end() - shape.out, all.end()}));
    }
  }
}

TEST_P(Linear, ThreadsAndStridesDoNotShow) {
  const int64_t tokens = 31;
  for (const LinearShape& shape : kinds(333, 300, 48)) {
    const LinearCase c = make_linear(shape);
    AlignedBytes packed(linear_packed_bytes(shape));
    linear_pack(shape, c.source(), packed.data());
    const int64_t x_stride = shape.in + 13, y_stride = shape.out + 5;
    const auto x = normals(tokens * x_stride, 22);
    std::vector<float> dense;
    for (int64_t t = 0; t < tokens; ++t) {
      dense.insert(dense.end(), x.begin() + t * x_stride, x.begin() + t * x_stride + shape.in);
    }
    for (const int64_t n : {int64_t{1}, tokens}) {
      const auto want = run_packed(c, packed, dense, shape.in, n, shape.out, 1, true);
      for (const int threads : {1, 2, 3}) {
        const auto y = run_packed(c, packed, x, x_stride, n, y_stride, threads, true);
        for (int64_t t = 0; t < n; ++t) {
          const auto row = y.begin() + t * y_stride;
          EXPECT_TRUE(same_bits({row, row + shape.out},
                                {want.begin() + t * shape.out, want.begin() + (t + 1) * shape.out}))
              << describe(shape) << " threads " << threads;
          EXPECT_EQ(row[shape.out], -7.0f) << "wrote beyond a row";
        }
      }
    }
  }
}

// A long run of tokens crosses the token blocks of a task.
TEST_P(Linear, ManyTokenBlocks) {
  for (const LinearShape& shape : kinds(20, 40, 16)) {
    const LinearCase c = make_linear(shape);
    const int64_t tokens = 900;
    const auto x = normals(tokens * shape.in, 23);
    const auto all = run(c, x, tokens, 2);
    for (const int64_t t : {0, 11, 12, 383, 384, 385, 767, 768, 899}) {
      const std::vector<float> one(x.begin() + t * shape.in, x.begin() + (t + 1) * shape.in);
      const std::vector<float> want(all.begin() + t * shape.out, all.begin() + (t + 1) * shape.out);
      ASSERT_TRUE(same_bits(run(c, one, 1), want)) << describe(shape) << " token " << t;
    }
  }
}

TEST(LinearIsas, FmaIsasAgreeBitForBit) {
  for (const LinearShape& shape : kinds(77, 700, 96)) {
    const LinearCase c = make_linear(shape);
    AlignedBytes packed(linear_packed_bytes(shape));
    linear_pack(shape, c.source(), packed.data());
    for (const int64_t tokens : {1, 20}) {
      const auto x = normals(tokens * shape.in, 24);
      std::vector<float> want;
      for (const Isa isa : fma_isas()) {
        const KernelTable& kernels = kernels_for(isa);
        AlignedBytes scratch(linear_scratch_bytes(kernels, shape, tokens));
        ThreadPool pool(1);
        std::vector<float> y(static_cast<size_t>(tokens * shape.out));
        linear_run(kernels, shape, packed.data(), c.bias.data(), x.data(), shape.in, tokens,
                   y.data(), shape.out, scratch.data(), pool);
        if (want.empty()) want = y;
        EXPECT_TRUE(same_bits(y, want)) << describe(shape) << " on " << isa_name(isa);
      }
    }
  }
}

// With scale 1 and one group the output is the integer itself, exact in fp32.
TEST_P(Linear, Int8DotProductsAreExactAtTheExtremes) {
  for (const WeightKind kind : {WeightKind::kQ8, WeightKind::kQ4}) {
    for (const bool has_min : {false, true}) {
      const int64_t in = 64, out = 16;
      LinearCase c;
      c.shape = {out, in, in, kind, has_min, kInt8Acts};
      // The code of largest magnitude everywhere: −128, 255, −8 (0x8 twice) or 15.
      const auto fill = has_min                   ? std::byte{0xff}
                        : kind == WeightKind::kQ8 ? std::byte{0x80}
                                                  : std::byte{0x88};
      c.data.assign(static_cast<size_t>(kind == WeightKind::kQ8 ? out * in : out * in / 2), fill);
      c.scale.assign(static_cast<size_t>(out), float_to_half(1.0f));
      if (has_min) c.min.assign(static_cast<size_t>(out), 0);
      const double code = kind == WeightKind::kQ8 ? (has_min ? 255 : -128) : (has_min ? 15 : -8);
      for (const float sign : {1.0f, -1.0f}) {
        const std::vector<float> x(static_cast<size_t>(in), sign * 127.0f);
        const std::vector<double> want(static_cast<size_t>(out), sign * 127.0 * code * in);
        EXPECT_TRUE(within(run(c, x, 1, 1, false), want, exact()));
      }
    }
  }
}

TEST_P(Linear, ZeroAndTinyActivationsInInt8) {
  const LinearCase c = make_linear({20, 48, 16, WeightKind::kQ8, true, kInt8Acts});
  std::vector<float> x(48, 0.0f);
  EXPECT_TRUE(within(run(c, x, 1), c.bias, exact()));
  x.assign(48, 0x1p-101f);  // documented: counts as zero
  EXPECT_TRUE(within(run(c, x, 1), c.bias, exact()));
  const float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN()}) {
    x.assign(48, 1.0f);
    x[5] = bad;
    run(c, x, 1);  // no trap, no wild write; values carry no meaning
  }
}

TEST(LinearShapes, PackedBytesFollowTheLayout) {
  EXPECT_EQ(linear_packed_bytes({16, 64, 0, WeightKind::kF32}), 16 * 64 * 4);
  EXPECT_EQ(linear_packed_bytes({17, 64, 0, WeightKind::kF16}), 32 * 64 * 2);
  EXPECT_EQ(linear_packed_bytes({16, 128, 64, WeightKind::kQ4}), 64 + 16 * 64);
  EXPECT_EQ(linear_packed_bytes({16, 128, 64, WeightKind::kQ8, true}), 128 + 16 * 128);
}

TEST(LinearShapes, ImpossibleShapesAreRefused) {
  const auto refused = [](const LinearShape& shape, ErrorCode code) {
    try {
      linear_packed_bytes(shape);
    } catch (const Error& error) {
      return error.code() == code;
    }
    return false;
  };
  EXPECT_TRUE(refused({0, 4, 0, WeightKind::kF32}, ErrorCode::kInternal));
  EXPECT_TRUE(refused({4, 4, 2, WeightKind::kF32}, ErrorCode::kInternal));
  EXPECT_TRUE(refused({4, 4, 0, WeightKind::kQ8}, ErrorCode::kInternal));
  EXPECT_TRUE(refused({4, 4, 0, WeightKind::kF32, false, kInt8Acts}, ErrorCode::kInternal));
  EXPECT_TRUE(refused({int64_t{1} << 40, int64_t{1} << 40, 0, WeightKind::kF32}, ErrorCode::kData));
}

}  // namespace
}  // namespace ashlar::test
