#include "kernels/kv_zip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "tests/kernels/zip_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

struct Rows {
  std::vector<float> keys, values;
  int64_t rows;
  ZipShape shape;

  Rows(const ZipShape& s, int64_t n, uint64_t seed, double scale = 1)
      : keys(normals(n * s.key_dim, seed, scale)),
        values(normals(n * s.value_dim, seed + 1, scale)),
        rows(n),
        shape(s) {
    // Channels of very different size, as keys and values have them.
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t i = 0; i < s.key_dim; ++i)
        key(t, i) *= std::exp2f(static_cast<float>(i % 5 - 2));
      for (int64_t i = 0; i < s.value_dim; ++i) {
        value(t, i) *= std::exp2f(static_cast<float>(i % 7 - 3));
      }
    }
  }
  float& key(int64_t t, int64_t i) { return keys[static_cast<size_t>(t * shape.key_dim + i)]; }
  float& value(int64_t t, int64_t i) {
    return values[static_cast<size_t>(t * shape.value_dim + i)];
  }
};

void expect_within(const std::vector<float>& got, const std::vector<float>& want,
                   const std::vector<double>& bounds, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    // The decoder's own roundings in fp32.
    ASSERT_LE(error, bounds[i] * (1 + 1e-5) + std::abs(want[i]) * 0x1p-21)
        << what << " number " << i << ": " << got[i] << " for " << want[i];
  }
}

TEST(KvZip, EqualsTheSlowQuantizerAndKeepsItsBounds) {
  uint64_t seed = 900;
  for (const int64_t dim : {1, 2, 3, 5, 7, 8, 17, 64, 96, 128}) {
    for (const int64_t rows : {1, 2, 5, 16, 37, 100}) {
      for (const int64_t page_rows : {1, 3, 16, 64}) {
        const ZipShape shape{dim, dim % 2 == 0 ? dim : dim + 2};
        Rows in(shape, rows, seed += 2);
        for (const int64_t salient : {int64_t{0}, rows * 3 / 5, rows}) {
          ZipPages pages(shape, page_rows);
          pages.append(in.keys.data(), in.values.data(), rows, salient);
          const SlowSegment slow(shape, in.keys.data(), in.values.data(), rows, salient);
          std::vector<float> keys, values;
          pages.decode(0, keys, values);
          const std::string what = "dim " + std::to_string(dim) + " rows " + std::to_string(rows) +
                                   " page " + std::to_string(page_rows);
          ASSERT_NO_FATAL_FAILURE(expect_within(keys, in.keys, slow.key_bounds, what + " key"));
          ASSERT_NO_FATAL_FAILURE(
              expect_within(values, in.values, slow.value_bounds, what + " value"));
          // In double a number may round to the neighbouring code: one code off at most, rarely.
          int64_t differ = 0;
          for (size_t i = 0; i < keys.size(); ++i) {
            differ += std::abs(keys[i] - slow.keys[i]) > 0x1p-20 * std::abs(slow.keys[i]);
          }
          for (size_t i = 0; i < values.size(); ++i) {
            differ += std::abs(values[i] - slow.values[i]) > 0x1p-20 * std::abs(slow.values[i]);
          }
          // Where many channels are, a step may round to the neighbouring fp16: one channel's rows.
          const int64_t rounded = dim >= 64 ? rows : 0;
          ASSERT_LE(differ, 1 + std::ssize(keys) / 500 + rounded) << what;
        }
      }
    }
  }
}

// |error| ≤ √(M_i·M)/(2^b − 1) with M_i a channel's largest value, M the largest of all: what the
// channels' separation buys; a plain tokenwise quantizer has M/(2^b − 1) only.
TEST(KvZip, ErrorsOfValuesFollowTheirChannel) {
  const ZipShape shape{8, 64};
  const Rows in(shape, 100, 77);
  for (const bool salient : {true, false}) {
    ZipPages pages(shape, 16);
    pages.append(in.keys.data(), in.values.data(), 100, salient ? 100 : 0);
    std::vector<float> keys, values;
    pages.decode(0, keys, values);
    std::vector<double> largest(64);
    for (size_t j = 0; j < values.size(); ++j) {
      largest[j % 64] = std::max<double>(largest[j % 64], std::abs(in.values[j]));
    }
    const double all = *std::max_element(largest.begin(), largest.end());
    const double levels = salient ? 15 : 3;
    for (size_t j = 0; j < values.size(); ++j) {
      const double bound = std::sqrt(largest[j % 64] * all);
      ASSERT_LE(std::abs(values[j] - in.values[j]), bound / levels + 0x1p-9 * bound) << j;
    }
  }
}

TEST(KvZip, ConstantChannelsAndZeroRowsAreExact) {
  const ZipShape shape{7, 9};
  Rows in(shape, 40, 5);
  for (int64_t t = 0; t < in.rows; ++t) {
    in.key(t, 0) = 0;
    in.key(t, 3) = -2.5f;
    in.key(t, 6) = 1e-9f;  // beneath fp16
    in.value(t, 1) = 0;
    in.value(t, 5) = 0;
  }
  for (const int64_t t : {0, 13, 39}) {
    for (int64_t i = 0; i < shape.value_dim; ++i) in.value(t, i) = 0;
  }
  ZipPages pages(shape, 16);
  pages.append(in.keys.data(), in.values.data(), 40, 24);
  std::vector<float> keys, values;
  pages.decode(0, keys, values);
  for (int64_t t = 0; t < in.rows; ++t) {
    EXPECT_EQ(keys[static_cast<size_t>(t * 7)], 0.0f);
    EXPECT_EQ(keys[static_cast<size_t>(t * 7 + 3)], -2.5f);
    EXPECT_EQ(keys[static_cast<size_t>(t * 7 + 6)], 0.0f);
    EXPECT_EQ(values[static_cast<size_t>(t * 9 + 1)], 0.0f);
    EXPECT_EQ(values[static_cast<size_t>(t * 9 + 5)], 0.0f);
    if (t == 0 || t == 13 || t == 39) {
      for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(values[static_cast<size_t>(t * 9 + i)], 0.0f);
    }
  }
  // A whole segment of zeros, and one of a single number.
  const std::vector<float> zeros(40 * 9), same(40 * 9, 3.0f);
  ZipPages more(shape, 16);
  more.append(zeros.data(), zeros.data(), 40, 24);
  more.append(same.data(), same.data(), 40, 24);
  keys.clear(), values.clear();
  more.decode(0, keys, values);
  for (const float x : keys) EXPECT_EQ(x, 0.0f);
  for (const float x : values) EXPECT_EQ(x, 0.0f);
  keys.clear(), values.clear();
  more.decode(1, keys, values);
  for (const float x : keys) EXPECT_EQ(x, 3.0f);
  for (const float x : values) EXPECT_NEAR(x, 3.0f, 3.0 * 0x1p-11);  // y = 3/c rounds to fp16
}

TEST(KvZip, NumbersThatAreNoneStayInTheirChannelAndRow) {
  const ZipShape shape{6, 6};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity(), -1e30f, 3e38f}) {
    Rows in(shape, 30, 8);
    in.key(4, 2) = bad;
    in.value(11, 3) = bad;
    ZipPages pages(shape, 16);
    pages.append(in.keys.data(), in.values.data(), 30, 18);
    std::vector<float> keys, values;
    pages.decode(0, keys, values);
    for (int64_t t = 0; t < 30; ++t) {
      for (int64_t i = 0; i < 6; ++i) {
        const auto at = static_cast<size_t>(t * 6 + i);
        // The channel of one set's keys; of values the channel and the row.
        ASSERT_TRUE((i == 2 && t < 18) || std::isfinite(keys[at])) << bad << " " << t << " " << i;
        ASSERT_TRUE(i == 3 || t == 11 || std::isfinite(values[at])) << bad << " " << t << " " << i;
      }
    }
  }
}

// Later segments fill the open pages of earlier ones and change none of their bytes.
TEST(KvZip, FrozenRowsNeverChange) {
  const ZipShape shape{20, 12};
  for (const int64_t page_rows : {1, 3, 16, 64}) {
    ZipPages pages(shape, page_rows);
    std::vector<std::vector<float>> keys, values;
    for (uint64_t s = 0; s < 6; ++s) {
      const auto n = static_cast<int64_t>(17 + 9 * s);
      const Rows in(shape, n, 40 + s);
      pages.append(in.keys.data(), in.values.data(), n, n * 3 / 5);
      keys.emplace_back(), values.emplace_back();
      pages.decode(s, keys.back(), values.back());
      for (size_t before = 0; before < s; ++before) {
        std::vector<float> k, v;
        pages.decode(before, k, v);
        EXPECT_TRUE(same_bits(k, keys[before]));
        EXPECT_TRUE(same_bits(v, values[before]));
      }
    }
  }
}

// Pages by the words of kv_page.h: cells of keys column by column without parameters, then min and
// step of the values' rows, then their cells.
TEST(KvZip, PagesLieAsDocumented) {
  const ZipShape shape{11, 7};
  const int64_t P = 16;
  const Rows in(shape, 16, 3);
  for (const int list : {0, 1}) {
    ZipPages pages(shape, P);
    pages.append(in.keys.data(), in.values.data(), 16, list == 0 ? 16 : 0);
    const int per_byte = list == 0 ? 2 : 4, bits = 8 / per_byte;
    const int64_t key_units = (11 + per_byte - 1) / per_byte,
                  value_units = (7 + per_byte - 1) / per_byte;
    ASSERT_EQ(kv_page_bytes(pages.shape(list)), P * (key_units + 4 + value_units));
    const std::byte* page = pages.page(list, 0);
    const SlowSegment slow(shape, in.keys.data(), in.values.data(), 16, list == 0 ? 16 : 0);
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t i = 0; i < 11; ++i) {
        const int64_t u = i / per_byte;
        const bool in_cell = u < key_units / 4 * 4;
        const auto unit = static_cast<int64_t>(page[in_cell ? 4 * r + u : u * P + r]);
        const int64_t code = unit >> (i % per_byte * bits) & ((1 << bits) - 1);
        EXPECT_EQ(static_cast<double>(code), slow.key_code[static_cast<size_t>(r * 11 + i)]);
      }
    }
  }
}

// Paper §4.1 and the reported compression ratios: numbers of a segment and a row counted from the
// code's own bytes. There rows' parameters are shared by all heads of a sequence, hd = h·d.
TEST(KvZip, RatiosOfThePaper) {
  const double hd = 4096, batch = 8;
  const ZipShape shape{4096, 4096};
  const double per_channel = static_cast<double>(zip_parameter_bytes(shape)) / 2 / hd;
  EXPECT_EQ(per_channel, 5);
  // Two numbers per row beside its codes.
  const auto codes = [&](CodecKind set, double bits) {
    const KvPageShape page = zip_page(shape, set, 1);
    EXPECT_EQ(static_cast<double>(kv_page_bytes(page)), 2 * hd * bits / 8 + 4);
    return bits;
  };
  const double four = codes(kZipSalient, 4), two = codes(kZipRegular, 2);
  const auto ratio = [&](double r, double rows, double channel_numbers) {
    const double numbers = channel_numbers * hd + 2 * batch * rows;
    return 16 / (r * four + (1 - r) * two + 16 * numbers / (2 * batch * rows * hd));
  };
  // One set of four bits alone has three numbers per channel.
  EXPECT_NEAR(ratio(1, 4096, per_channel - 2), 3.995, 5e-4);
  EXPECT_NEAR(ratio(0.6, 840, per_channel), 4.985, 5e-4);
  EXPECT_NEAR(ratio(0.7, 840, per_channel), 4.692, 5e-4);
}

TEST(KvZip, RefusesOtherShapes) {
  EXPECT_THROW(zip_page({8, 8}, CodecKind::kQ8, 16), Error);
  KvPageShape shape = zip_page({8, 8}, kZipSalient, 16);
  std::vector<std::byte> page(static_cast<size_t>(kv_page_bytes(shape)));
  std::vector<float> rows(8);
  EXPECT_THROW(kv_page_encode(shape, page.data(), 0, 1, rows.data(), 8, rows.data(), 8), Error);
  shape.heads = 2;
  EXPECT_THROW(kv_page_bytes(shape), Error);
}

}  // namespace
}  // namespace ashlar::test
