#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "core/base/dtype.h"
#include "kernels/kv_zip.h"
#include "tests/kernels/kernel_support.h"

// ZipCache's codec once more, slowly and in double, from the paper's equations; and segments in
// pages as a lane keeps them.

namespace ashlar::test {

inline double to_half(double x) { return half_to_float(float_to_half(static_cast<float>(x))); }

/// An asymmetric quantizer of b bits with fp16 parameters.
struct SlowAffine {
  double min = 0, step = 0, levels = 1;

  SlowAffine() = default;
  SlowAffine(double low, double high, int bits) : levels(std::pow(2.0, bits) - 1) {
    step = to_half((high - low) / levels);
    min = to_half(step == 0 ? (low + high) / 2 : low);
  }
  double code(double x) const {
    if (step == 0) return 0;
    return std::min(levels, std::max(0.0, std::nearbyint((x - min) / step)));
  }
  double value(double code) const { return min + step * code; }
  /// Half a step, and what rounding min and step to fp16 costs.
  double bound() const {
    return step / 2 + 0x1p-11 * (std::abs(min) + levels * step) + 0x1p-24 * (1 + levels);
  }
};

/// One segment: what its rows decode to, and how far from them that may be.
struct SlowSegment {
  std::vector<double> keys, values, key_bounds, value_bounds;
  std::vector<double> key_min, key_step, key_code;  ///< of every number

  /// The first `salient` rows get 4 bits.
  SlowSegment(const ZipShape& s, const float* k, const float* v, int64_t rows, int64_t salient) {
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < s.key_dim; ++i) {
        const bool is_salient = t < salient;
        double low = INFINITY, high = -INFINITY;
        for (int64_t u = is_salient ? 0 : salient; u < (is_salient ? salient : rows); ++u) {
          low = std::min<double>(low, k[u * s.key_dim + i]);
          high = std::max<double>(high, k[u * s.key_dim + i]);
        }
        const SlowAffine a(low, high, is_salient ? 4 : 2);
        const double code = a.code(k[t * s.key_dim + i]);
        keys.push_back(a.value(code));
        key_bounds.push_back(a.bound());
        key_min.push_back(a.min);
        key_step.push_back(a.step);
        key_code.push_back(code);
      }
    }
    std::vector<double> c;
    for (int64_t i = 0; i < s.value_dim; ++i) {
      double top = 0;
      for (int64_t t = 0; t < rows; ++t)
        top = std::max<double>(top, std::abs(v[t * s.value_dim + i]));
      c.push_back(to_half(std::sqrt(top)));
    }
    for (int64_t t = 0; t < rows; ++t) {
      double low = INFINITY, high = -INFINITY;
      const auto y = [&](int64_t i) { return v[t * s.value_dim + i] / c[static_cast<size_t>(i)]; };
      for (int64_t i = 0; i < s.value_dim; ++i) {
        if (c[static_cast<size_t>(i)] == 0) continue;
        low = std::min(low, y(i));
        high = std::max(high, y(i));
      }
      const SlowAffine a = low <= high ? SlowAffine(low, high, t < salient ? 4 : 2) : SlowAffine();
      for (int64_t i = 0; i < s.value_dim; ++i) {
        const double factor = c[static_cast<size_t>(i)];
        values.push_back(factor == 0 ? 0 : a.value(a.code(y(i))) * factor);
        value_bounds.push_back(a.bound() * factor);
      }
    }
  }
};

/// Two lists of pages that segments of one head are appended to, and their parameters.
class ZipPages {
 public:
  ZipPages(const ZipShape& shape, int64_t page_rows)
      : shape_(shape),
        lists_{{zip_page(shape, kZipSalient, page_rows), {}, {}, 0},
               {zip_page(shape, kZipRegular, page_rows), {}, {}, 0}} {}

  /// Rows of a segment, the first `salient` of which are salient.
  void append(const float* keys, const float* values, int64_t rows, int64_t salient) {
    parameters_.push_back(std::make_unique<AlignedBytes>(zip_parameter_bytes(shape_)));
    zip_parameters(shape_, keys, values, rows, salient, parameters_.back()->data());
    EXPECT_TRUE(parameters_.back()->intact());
    add(lists_[0], keys, values, salient);
    add(lists_[1], keys + salient * shape_.key_dim, values + salient * shape_.value_dim,
        rows - salient);
  }
  /// Runs as attention reads them: salient rows, then the others, segment by segment.
  std::vector<KvRun> runs() const {
    std::vector<KvRun> out;
    int64_t at[2] = {0, 0};
    for (size_t s = 0; s < parameters_.size(); ++s) {
      for (int l = 0; l < 2; ++l) {
        const List& list = lists_[l];
        const int64_t rows = list.segments[s];
        if (rows == 0) continue;
        KvRun run = zip_run(list.shape, channels(l, s));
        run.pages = list.addresses.data() + at[l] / list.shape.page_rows;
        run.first = at[l] % list.shape.page_rows;
        run.rows = rows;
        out.push_back(run);
        at[l] += rows;
      }
    }
    return out;
  }
  /// What a segment's rows decode to, appended.
  void decode(size_t segment, std::vector<float>& keys, std::vector<float>& values) const {
    for (int l = 0; l < 2; ++l) {
      const List& list = lists_[l];
      int64_t first = 0;
      for (size_t s = 0; s < segment; ++s) first += list.segments[s];
      std::vector<float> k(static_cast<size_t>(shape_.key_dim)),
          v(static_cast<size_t>(shape_.value_dim));
      for (int64_t r = first; r < first + list.segments[segment]; ++r) {
        zip_decode(list.shape, list.addresses[static_cast<size_t>(r / list.shape.page_rows)],
                   r % list.shape.page_rows, 1, k.data(), 0, v.data(), 0, channels(l, segment));
        keys.insert(keys.end(), k.begin(), k.end());
        values.insert(values.end(), v.begin(), v.end());
      }
    }
  }
  /// Bytes of page `page` of a list.
  const std::byte* page(int list, size_t page) const { return lists_[list].addresses[page]; }
  const KvPageShape& shape(int list) const { return lists_[list].shape; }
  const std::byte* parameters(size_t segment) const { return parameters_[segment]->data(); }

 private:
  struct List {
    KvPageShape shape;
    std::vector<std::unique_ptr<AlignedBytes>> pages;
    std::vector<const std::byte*> addresses;
    int64_t rows = 0;
    std::vector<int64_t> segments = {};  // rows of each
  };

  ZipChannels channels(int list, size_t segment) const {
    return zip_channels(shape_, lists_[list].shape.key_codec, parameters_[segment]->data());
  }
  void add(List& list, const float* keys, const float* values, int64_t rows) {
    const int64_t per_page = list.shape.page_rows;
    list.segments.push_back(rows);
    const auto own = channels(list.shape.key_codec == kZipSalient ? 0 : 1, parameters_.size() - 1);
    for (int64_t r = 0; r < rows; ++r, ++list.rows) {
      if (list.rows % per_page == 0) {
        list.pages.push_back(std::make_unique<AlignedBytes>(kv_page_bytes(list.shape)));
        list.addresses.push_back(list.pages.back()->data());
      }
      zip_encode(list.shape, list.pages.back()->data(), list.rows % per_page, 1,
                 keys + r * shape_.key_dim, shape_.key_dim, values + r * shape_.value_dim,
                 shape_.value_dim, own);
      EXPECT_TRUE(list.pages.back()->intact());
    }
  }

  ZipShape shape_;
  List lists_[2];
  std::vector<std::unique_ptr<AlignedBytes>> parameters_;
};

}  // namespace ashlar::test
