#include "kernels/kv_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "tests/kernels/kv_page_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

const int64_t kDims[] = {1, 2, 3, 5, 7, 8, 17, 64, 96, 128};
const int64_t kPageRows[] = {1, 2, 3, 8, 16, 32, 64};
const CodecKind kAffine[] = {CodecKind::kQ8, CodecKind::kQ4, CodecKind::kQ3, CodecKind::kQ2};

/// A page, filled through the kernels of one ISA, and the rows it was filled with.
struct FilledPage {
  KvPageShape shape;
  std::vector<float> keys, values;
  AlignedBytes bytes;

  FilledPage(const KernelTable& kernels, const KvPageShape& s, uint64_t seed, double scale = 1,
             float shift = 0)
      : shape(s),
        keys(normals(s.page_rows * s.heads * s.key_dim, seed, scale)),
        values(normals(s.page_rows * s.heads * s.value_dim, seed + 1, scale)),
        bytes(kv_page_bytes(s)) {
    for (float& v : keys) v += shift;
    fill(kernels);
  }
  /// In two pieces, so that `first` counts.
  void fill(const KernelTable& kernels) {
    const int64_t k = shape.heads * shape.key_dim, v = shape.heads * shape.value_dim;
    const int64_t cut = shape.page_rows / 3;
    kv_page_encode(kernels, shape, bytes.data(), cut, shape.page_rows - cut, keys.data() + cut * k,
                   k, values.data() + cut * v, v);
    kv_page_encode(kernels, shape, bytes.data(), 0, cut, keys.data(), k, values.data(), v);
    EXPECT_TRUE(bytes.intact());
  }
  std::vector<std::byte> copy() const {
    return {bytes.data(), bytes.data() + kv_page_bytes(shape)};
  }
  const float* row(int64_t r, int64_t head, bool value) const {
    const int64_t dim = value ? shape.value_dim : shape.key_dim;
    return (value ? values : keys).data() + (r * shape.heads + head) * dim;
  }
};

std::vector<KvPageShape> shapes() {
  std::vector<KvPageShape> list;
  int64_t n = 0;
  for (const CodecKind codec : kCodecKinds) {
    for (const int64_t dim : kDims) {
      for (const int64_t rows : kPageRows) {
        const CodecKind other = kCodecKinds[static_cast<size_t>(++n) % 7];
        const int64_t value_dim = kDims[n % 10];
        list.push_back({codec, codec, 1 + n % 3, dim, dim, false, rows});
        list.push_back({codec, other, 1 + n % 2, dim, value_dim, false, rows});
        if (n % 4 == 0) list.push_back({codec, codec, 1, dim, 1, true, rows});
      }
    }
  }
  return list;
}

std::string describe(const KvPageShape& s) {
  return fmt::format("{}:{} heads {} dims {}:{} rows {}{}", codec_name(s.key_codec),
                     codec_name(s.value_codec), s.heads, s.key_dim, s.value_dim, s.page_rows,
                     s.value_in_key ? " value in key" : "");
}

class KvPage : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, KvPage, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST(KvPageShapes, NothingIsPadded) {
  KvPageShape s{CodecKind::kQ4, CodecKind::kQ4, 8, 128, 128, false, 16};
  EXPECT_EQ(kv_page_bytes(s), 16 * 8 * 136);
  s.key_dim = s.value_dim = 64;
  EXPECT_EQ(kv_page_bytes(s), 16 * 8 * 72);
  s.value_codec = CodecKind::kQ8;
  s.value_dim = 63;
  EXPECT_EQ(kv_page_bytes(s), 16 * 8 * (36 + 67));
  s.value_in_key = true;
  EXPECT_EQ(kv_page_bytes(s), 16 * 8 * 36);
  s.page_rows = 0;
  EXPECT_THROW(kv_page_bytes(s), Error);
}

TEST(KvPageShapes, RunsKnowTheirHead) {
  const KvPageShape s{CodecKind::kQ3, CodecKind::kF16, 3, 20, 10, false, 5};
  const KvRun run = kv_page_run(s, 2);
  EXPECT_EQ(run.key_codec, CodecKind::kQ3);
  EXPECT_EQ(run.value_codec, CodecKind::kF16);
  EXPECT_EQ(run.page_rows, 5);
  EXPECT_EQ(run.key_offset, 2 * 5 * (12 + 20));
  EXPECT_EQ(run.value_offset, 2 * 5 * (12 + 20) + 5 * 12);
  EXPECT_EQ(run.rows, 0);
  EXPECT_THROW(kv_page_run(s, 3), Error);
}

// What decoding gives is what the documented layout says, element by element, and nothing outside
// the page or the output is touched.
TEST_P(KvPage, LayoutIsAsDocumented) {
  for (const KvPageShape& s : shapes()) {
    const FilledPage page(kernels(), s, 40);
    const PageReader reader(s, page.bytes.data());
    const int64_t key_stride = s.heads * s.key_dim + 3, value_stride = s.heads * s.value_dim + 1;
    std::vector<float> keys(static_cast<size_t>(s.page_rows * key_stride), 7.0f);
    std::vector<float> values(static_cast<size_t>(s.page_rows * value_stride), 7.0f);
    kv_page_decode(kernels(), s, page.bytes.data(), 0, s.page_rows, keys.data(), key_stride,
                   s.value_in_key ? nullptr : values.data(), value_stride);
    for (int64_t r = 0; r < s.page_rows; ++r) {
      for (int64_t h = 0; h < s.heads; ++h) {
        for (int64_t i = 0; i < s.key_dim; ++i) {
          ASSERT_EQ(keys[static_cast<size_t>(r * key_stride + h * s.key_dim + i)],
                    static_cast<float>(reader.element(h, r, i, false)))
              << describe(s) << " row " << r << " element " << i;
        }
        for (int64_t i = 0; i < s.value_dim && !s.value_in_key; ++i) {
          ASSERT_EQ(values[static_cast<size_t>(r * value_stride + h * s.value_dim + i)],
                    static_cast<float>(reader.element(h, r, i, true)))
              << describe(s);
        }
      }
      ASSERT_EQ(keys[static_cast<size_t>(r * key_stride + s.heads * s.key_dim)], 7.0f);
      ASSERT_EQ(values[static_cast<size_t>(r * value_stride + s.heads * s.value_dim)], 7.0f);
    }
  }
}

TEST_P(KvPage, FloatsAreExactHalvesAreRounded) {
  for (const KvPageShape& s : shapes()) {
    if (codec_levels(s.key_codec) > 0) continue;
    const FilledPage page(kernels(), s, 41);
    const PageReader reader(s, page.bytes.data());
    for (int64_t r = 0; r < s.page_rows; ++r) {
      for (int64_t i = 0; i < s.key_dim; ++i) {
        const float x = page.row(r, 0, false)[i];
        const float want = s.key_codec == CodecKind::kF32   ? x
                           : s.key_codec == CodecKind::kF16 ? half_to_float(float_to_half(x))
                                                            : bfloat_to_float(float_to_bfloat(x));
        ASSERT_EQ(reader.element(0, r, i, false), want) << describe(s);
      }
    }
  }
}

// 04 E2.5 with the range shrunk about its centre: half a step inside the kept range, the distance
// to it outside, plus 2^-11·(|min| + levels·step) for the parameters rounded to fp16.
TEST_P(KvPage, ErrorStaysWithinTheDerivedBound) {
  uint64_t seed = 0;
  for (const KvPageShape& s : shapes()) {
    const int levels = codec_levels(s.key_codec);
    if (levels == 0) continue;
    ++seed;
    const FilledPage page(kernels(), s, 100 + seed,
                          std::pow(4.0, static_cast<double>(seed % 7) - 3),
                          static_cast<float>(seed % 5));
    const PageReader reader(s, page.bytes.data());
    for (int64_t r = 0; r < s.page_rows; ++r) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const float* x = page.row(r, h, false);
        const auto [lo, hi] = std::minmax_element(x, x + s.key_dim);
        const double clip = codec_clip(s.key_codec);
        const double cut = (1 - clip) / 2 * (static_cast<double>(*hi) - *lo);
        const AffineRow p = reader.parameters(h, r, false);
        const double top = std::abs(p.min) + levels * p.step;
        const double slack = 0x1p-11 * top + 0x1p-24 + reordered<float>(4, top).absolute;
        for (int64_t i = 0; i < s.key_dim; ++i) {
          const double error = std::abs(x[i] - reader.element(h, r, i, false));
          ASSERT_LE(error, quantized(p.step, 0.5, cut + slack).absolute) << describe(s);
          if (x[i] > *lo + cut && x[i] < *hi - cut) {
            ASSERT_LE(error, quantized(p.step, 0.5, slack).absolute) << describe(s);
          }
        }
      }
    }
  }
}

TEST_P(KvPage, CodesReachBothEnds) {
  for (const CodecKind kind : kAffine) {
    const KvPageShape s{kind, kind, 2, 64, 64, false, 16};
    const FilledPage page(kernels(), s, 42);
    const PageReader reader(s, page.bytes.data());
    for (int64_t r = 0; r < s.page_rows; ++r) {
      int64_t low = 1000, high = -1;
      for (int64_t i = 0; i < 64; ++i) {
        low = std::min(low, reader.code(1, r, i, true));
        high = std::max(high, reader.code(1, r, i, true));
      }
      EXPECT_EQ(low, 0);
      EXPECT_EQ(high, codec_levels(kind));
    }
  }
}

// Here [0, 4]: q8 keeps all of it, q4 [0.1, 3.9], q3 and q2 their own part.
TEST_P(KvPage, RangeIsShrunkAboutItsCentre) {
  const float x[] = {0.0f, 4.0f, 1.0f, 3.0f, 2.0f};
  for (const CodecKind kind : kAffine) {
    const KvPageShape s{kind, kind, 1, 5, 5, true, 1};
    AlignedBytes page(kv_page_bytes(s));
    kv_page_encode(kernels(), s, page.data(), 0, 1, x, 5, nullptr, 0);
    const AffineRow p = PageReader(s, page.data()).parameters(0, 0, false);
    const double clip = codec_clip(kind), step = 4 * clip / codec_levels(kind);
    EXPECT_NEAR(p.min, 2 - 2 * clip, quantized((2 - 2 * clip) * 0x1p-10).absolute);
    EXPECT_NEAR(p.step, step, quantized(step * 0x1p-10).absolute);
  }
}

TEST_P(KvPage, ConstantRowsAreExactAndTinyRangesCollapse) {
  for (const CodecKind kind : kAffine) {
    for (const int64_t dim : kDims) {
      const KvPageShape s{kind, kind, 1, dim, dim, false, 3};
      for (const float value : {0.0f, 1.5f, -0.125f, 1024.0f, 0.1f}) {
        AlignedBytes page(kv_page_bytes(s));
        std::vector<float> x(static_cast<size_t>(3 * dim), value), y(x.size());
        kv_page_encode(kernels(), s, page.data(), 0, 3, x.data(), dim, x.data(), dim);
        kv_page_decode(kernels(), s, page.data(), 0, 3, y.data(), dim, nullptr, 0);
        const std::vector<float> want(x.size(), half_to_float(float_to_half(value)));
        EXPECT_TRUE(within(y, want, exact())) << codec_name(kind) << " " << value;
        if (std::abs(value) >= 1) continue;  // below 2^-25 a level no step is left
        x[0] = value * (1 + 1e-7f);
        kv_page_encode(kernels(), s, page.data(), 0, 3, x.data(), dim, x.data(), dim);
        EXPECT_EQ(PageReader(s, page.data()).parameters(0, 0, false).step, 0) << value;
      }
    }
  }
}

TEST_P(KvPage, NonFiniteInputIsHarmless) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const CodecKind kind : kCodecKinds) {
    for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN(), 1e38f}) {
      for (const int64_t dim : {1, 5, 16, 33}) {
        const KvPageShape s{kind, kind, 1, dim, dim, false, 2};
        AlignedBytes page(kv_page_bytes(s));
        auto x = normals(2 * dim, 13);
        std::vector<float> y(x.size());
        x[0] = bad;
        kv_page_encode(kernels(), s, page.data(), 0, 2, x.data(), dim, x.data(), dim);
        kv_page_decode(kernels(), s, page.data(), 0, 2, y.data(), dim, y.data(), dim);
        EXPECT_TRUE(std::isfinite(y.back())) << "another row is hit";
      }
    }
  }
}

// 0.00922 as before for q4 (reference/02); the others as measured for kernels/codec.h.
TEST_P(KvPage, GaussianErrorIsAsMeasured) {
  const struct {
    CodecKind kind;
    double error;
  } wanted[] = {{CodecKind::kQ8, 3.4e-5},
                {CodecKind::kQ4, 0.00922},
                {CodecKind::kQ3, 0.0350},
                {CodecKind::kQ2, 0.1224}};
  for (const auto& w : wanted) {
    const KvPageShape s{w.kind, w.kind, 1, 128, 128, false, 400};
    const FilledPage page(kernels(), s, 1000);
    const PageReader reader(s, page.bytes.data());
    double error = 0, power = 0;
    for (int64_t r = 0; r < 400; ++r) {
      for (int64_t i = 0; i < 128; ++i) {
        const double x = page.row(r, 0, false)[i];
        error += std::pow(x - reader.element(0, r, i, false), 2);
        power += x * x;
      }
    }
    EXPECT_NEAR(error / power, w.error, statistical(0.03 * w.error, 1000, 400 * 128).absolute)
        << codec_name(w.kind);
  }
}

TEST_P(KvPage, CopyRowMovesEveryByteOfARowAndNoOther) {
  for (const KvPageShape& s : shapes()) {
    if (s.page_rows < 2) continue;
    FilledPage from(kernels(), s, 43);
    FilledPage to(kernels(), s, 44);
    const int64_t a = s.page_rows - 1, b = s.page_rows / 2 - (s.page_rows == 2 ? 1 : 0);
    kv_page_copy_row(s, from.bytes.data(), a, to.bytes.data(), b);
    const auto moved = to.copy();
    // The same page as if row b had been encoded from the other's row a.
    const auto put = [&](std::vector<float>& x, const std::vector<float>& y, int64_t width) {
      std::copy_n(y.begin() + a * width, width, x.begin() + b * width);
    };
    put(to.keys, from.keys, s.heads * s.key_dim);
    put(to.values, from.values, s.heads * s.value_dim);
    to.fill(kernels());
    ASSERT_EQ(moved, to.copy()) << describe(s);
    kv_page_copy_row(s, to.bytes.data(), a, to.bytes.data(), b);
    put(to.keys, to.keys, s.heads * s.key_dim);
    put(to.values, to.values, s.heads * s.value_dim);
    const auto within_page = to.copy();
    to.fill(kernels());
    ASSERT_EQ(within_page, to.copy()) << describe(s);
  }
}

TEST_P(KvPage, EveryIsaGivesTheSameBytesAndFloats) {
  const KernelTable& generic = kernels_for(Isa::kGeneric);
  for (const KvPageShape& s : shapes()) {
    const FilledPage page(kernels(), s, 14, 3.0), other(generic, s, 14, 3.0);
    ASSERT_EQ(page.copy(), other.copy()) << describe(s);
    std::vector<float> a(page.keys.size()), b(a.size()), c(page.values.size()), d(c.size());
    const int64_t k = s.heads * s.key_dim, v = s.heads * s.value_dim;
    kv_page_decode(kernels(), s, page.bytes.data(), 0, s.page_rows, a.data(), k,
                   s.value_in_key ? nullptr : c.data(), v);
    kv_page_decode(generic, s, page.bytes.data(), 0, s.page_rows, b.data(), k,
                   s.value_in_key ? nullptr : d.data(), v);
    ASSERT_TRUE(same_bits(a, b)) << describe(s);
    ASSERT_TRUE(same_bits(c, d)) << describe(s);
  }
}

TEST(KvPageChecks, RowsOutsideThePageAreProgrammerErrors) {
  const KvPageShape s{CodecKind::kF32, CodecKind::kF32, 1, 1, 1, false, 2};
  std::byte page[16];
  float x[4] = {};
  EXPECT_THROW(kv_page_encode(s, page, 1, 2, x, 1, x, 1), Error);
  EXPECT_THROW(kv_page_encode(s, page, -1, 1, x, 1, x, 1), Error);
  EXPECT_THROW(kv_page_copy_row(s, page, 0, page, 2), Error);
  KvPageShape latent = s;
  latent.value_in_key = true;
  EXPECT_THROW(kv_page_decode(latent, page, 0, 1, x, 1, x, 1), Error);
}

}  // namespace
}  // namespace ashlar::test
