#pragma once

#include <cmath>
#include <cstring>
#include <memory>

#include "core/base/dtype.h"
#include "kernels/attention.h"
#include "kernels/kv_page.h"
#include "kernels/kv_side.h"
#include "tests/kernels/collected.h"
#include "tests/kernels/kernel_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {

struct RunCase {
  CodecKind key = CodecKind::kF32, value = CodecKind::kF32;
  int64_t rows = 0;
  int64_t page_rows = 16;
  int64_t first = 0;
};

/// One KV head: runs of encoded rows, then raw rows, of which the last query row sees all.
struct AttentionCase {
  std::vector<RunCase> runs;
  int64_t raw = 1, rows = 1, group = 1, key_dim = 8, value_dim = 8;
  int64_t window = 0;
  bool sinks = false;
  bool latent = false;  ///< values are the first elements of the keys
  uint64_t seed = 30;

  int64_t encoded() const {
    int64_t n = 0;
    for (const RunCase& r : runs) n += r.rows;
    return n;
  }
  int64_t slots() const { return encoded() + raw; }
};

/// A case with its pages, queries and the decoded rows that the reference reads. The head under
/// test is the second of two in its pages; each run begins at its own `first`.
class Problem {
 public:
  Problem(const KernelTable& kernels, AttentionCase c) : c_(std::move(c)), kernels_(kernels) {
    const int64_t slots = c_.slots();
    keys_ = normals(slots * c_.key_dim, c_.seed);
    values_ = normals(slots * c_.value_dim, c_.seed + 1);
    q_ = normals(c_.rows * c_.group * c_.key_dim, c_.seed + 2, 2.0);
    wide_ =
        round_queries(static_cast<float>(std::min<int64_t>(32639, INT32_MAX / (255 * c_.key_dim))));
    short_ = round_queries(127);
    exact_.assign(static_cast<size_t>(slots), NAN);
    codes_.assign(static_cast<size_t>(slots), 0);
    if (c_.sinks) sinks_ = normals(c_.group, c_.seed + 3, 2.0);
    if (c_.latent) {
      for (int64_t s = 0; s < slots; ++s) {
        std::copy_n(keys_.begin() + s * c_.key_dim, c_.value_dim,
                    values_.begin() + s * c_.value_dim);
      }
    }
    int64_t slot = 0;
    page_lists_.resize(c_.runs.size());
    for (size_t r = 0; r < c_.runs.size(); ++r) {
      add_run(r, slot);
      slot += c_.runs[r].rows;
    }
  }

  const AttentionCase& shape() const { return c_; }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(c_.key_dim))); }
  const std::vector<float>& keys() const { return keys_; }
  const std::vector<float>& values() const { return values_; }
  const std::vector<float>& queries() const { return q_; }

  KvHeadView view() const {
    KvHeadView v;
    v.run_count = static_cast<int64_t>(runs_.size());
    for (size_t r = 0; r < runs_.size(); ++r) {
      v.runs[r] = runs_[r];
      v.runs[r].pages = page_lists_[r].data();
    }
    const int64_t encoded = c_.encoded();
    v.raw_keys = keys_.data() + encoded * c_.key_dim;
    v.raw_values = c_.latent ? v.raw_keys : values_.data() + encoded * c_.value_dim;
    v.raw_key_stride = c_.key_dim;
    v.raw_value_stride = c_.latent ? c_.key_dim : c_.value_dim;
    return v;
  }

  /// Rows [first, first + n) of the causal problem, all heads or one.
  AttentionTask task(int64_t first, int64_t n, int64_t head = -1) const {
    AttentionTask t;
    t.q = q_.data() + first * c_.group * c_.key_dim + (head < 0 ? 0 : head * c_.key_dim);
    t.q_stride = c_.group * c_.key_dim;
    t.rows = n;
    t.group = head < 0 ? c_.group : 1;
    t.key_dim = c_.key_dim;
    t.value_dim = c_.value_dim;
    t.scale = scale();
    t.raw_visible = c_.raw - c_.rows + 1 + first;
    t.window = c_.window;
    if (c_.sinks) t.sinks = sinks_.data() + (head < 0 ? 0 : head);
    return t;
  }

  std::vector<float> run(int64_t first, int64_t n, Collected* collected = nullptr,
                         int64_t head = -1) const {
    return run_on(view(), task(first, n, head), collected);
  }

  /// Where a task writes.
  static void direct(AttentionTask& t, std::vector<float>& out, Collected* collected) {
    t.out = out.data();
    t.out_stride = t.group * t.value_dim;
    if (collected == nullptr) return;
    t.scores = collected->sums();
    t.counts = collected->counts.empty() ? nullptr : collected->counts.data();
    t.score_from = collected->from;
  }

  /// The output of a task (out and its stride are set here).
  std::vector<float> run_on(const KvHeadView& kv, AttentionTask t,
                            Collected* collected = nullptr) const {
    std::vector<float> out(static_cast<size_t>(t.rows * t.group * t.value_dim));
    direct(t, out, collected);
    const int64_t seen = kv.encoded() + t.raw_visible + t.rows - 1;
    AlignedBytes scratch(attention_scratch_bytes(t.rows, t.group, seen, t.key_dim, t.value_dim,
                                                 t.scores.low != nullptr || t.counts != nullptr));
    attention_run(kernels_, kv, t, scratch.data());
    EXPECT_TRUE(scratch.intact());
    return out;
  }

  /// The same by splits, from the last to the first, and a merge.
  std::vector<float> run_splits(const KvHeadView& kv, AttentionTask t,
                                Collected* collected = nullptr) const {
    std::vector<float> out(static_cast<size_t>(t.rows * t.group * t.value_dim));
    direct(t, out, collected);
    const int64_t splits = attention_splits(kv, t), bytes = attention_partial_bytes(kv, t);
    const int64_t seen = kv.encoded() + t.raw_visible + t.rows - 1;
    AlignedBytes scratch(
        attention_scratch_bytes(t.rows, t.group, seen, t.key_dim, t.value_dim, false));
    AlignedBytes partials(splits * bytes);
    for (int64_t i = splits - 1; i >= 0; --i) {
      attention_run_split(kernels_, kv, t, i, partials.data() + i * bytes, scratch.data());
    }
    const auto collect = [&](int64_t split) {
      if (collected != nullptr) attention_collect(kernels_, kv, t, split, partials.data());
    };
    for (int64_t i = splits - 1; i > 0; --i) collect(i);
    attention_merge(kernels_, kv, t, partials.data());
    collect(0);
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(partials.intact());
    return out;
  }

  /// p[slot] of query row r and head h in double, zero where it sees nothing.
  std::vector<double> probabilities(int64_t r, int64_t h) const {
    const int64_t visible = c_.slots() - c_.rows + 1 + r;
    const int64_t first = c_.window > 0 ? std::max<int64_t>(0, visible - c_.window) : 0;
    std::vector<double> p(static_cast<size_t>(c_.slots()));
    const double sink = c_.sinks ? sinks_[static_cast<size_t>(h)] : -INFINITY;
    double top = std::max(-1e300, sink);
    for (int64_t j = first; j < visible; ++j) {
      const double s = dot(r * c_.group + h, j) * scale();
      p[static_cast<size_t>(j)] = s;
      top = std::max(top, s);
    }
    double sum = std::exp(sink - top);
    for (int64_t j = first; j < visible; ++j) {
      double& v = p[static_cast<size_t>(j)];
      sum += v = std::exp(v - top);
    }
    for (double& v : p) v /= sum;
    return p;
  }

  /// Out of every row and head in double, from the decoded keys and values.
  std::vector<double> reference() const {
    std::vector<double> out(static_cast<size_t>(c_.rows * c_.group * c_.value_dim));
    for (int64_t query = 0; query < c_.rows * c_.group; ++query) {
      const auto p = probabilities(query / c_.group, query % c_.group);
      double* o = out.data() + query * c_.value_dim;
      for (int64_t j = 0; j < c_.slots(); ++j) {
        for (int64_t i = 0; i < c_.value_dim; ++i) {
          o[i] += p[static_cast<size_t>(j)] * values_[static_cast<size_t>(j * c_.value_dim + i)];
        }
      }
    }
    return out;
  }

 private:
  /// Queries as codes are multiplied with them (kernels/attention.h).
  std::vector<double> round_queries(float levels) const {
    std::vector<double> rounded(q_.size());
    for (size_t first = 0; first < q_.size(); first += static_cast<size_t>(c_.key_dim)) {
      const std::span<const float> q(q_.data() + first, static_cast<size_t>(c_.key_dim));
      float largest = 0;
      for (const float x : q) largest = std::max(largest, std::abs(x));
      for (size_t i = 0; i < q.size(); ++i) {
        rounded[first + i] =
            static_cast<double>(std::nearbyint(q[i] * (levels / largest))) * (largest / levels);
      }
    }
    return rounded;
  }

  /// q·k of a query and a slot: with codes Σ q'·(k − x) + x·Σ q, q' rounded; x is min, or the
  /// middle of what few bits can say.
  double dot(int64_t query, int64_t slot) const {
    const double exact = exact_[static_cast<size_t>(slot)];
    const auto& rounded = codes_[static_cast<size_t>(slot)] < 255 ? short_ : wide_;
    double total = 0;
    for (int64_t i = 0; i < c_.key_dim; ++i) {
      const auto at = static_cast<size_t>(query * c_.key_dim + i);
      const double k = keys_[static_cast<size_t>(slot * c_.key_dim + i)], q = q_[at];
      total += std::isnan(exact) ? q * k : rounded[at] * (k - exact) + q * exact;
    }
    return total;
  }

  /// Encodes a run's rows into pages and replaces them by what decoding gives.
  void add_run(size_t r, int64_t slot) {
    const RunCase& run = c_.runs[r];
    const KvPageShape shape{run.key,   run.value,    2, c_.key_dim, c_.value_dim,
                            c_.latent, run.page_rows};
    runs_.push_back(kv_page_run(shape, 1));
    runs_.back().first = run.first;
    runs_.back().rows = run.rows;
    std::vector<float> keys(static_cast<size_t>(2 * c_.key_dim), 0.5f);
    std::vector<float> values(static_cast<size_t>(2 * c_.value_dim), 0.5f);
    for (int64_t row = 0; row < run.rows; ++row, ++slot) {
      const int64_t at = run.first + row;
      const size_t page = static_cast<size_t>(at / run.page_rows);
      while (page_lists_[r].size() <= page) {
        storage_.push_back(std::make_unique<AlignedBytes>(kv_page_bytes(shape)));
        page_lists_[r].push_back(storage_.back()->data());
      }
      float* key = keys_.data() + slot * c_.key_dim;
      float* value = values_.data() + slot * c_.value_dim;
      std::copy_n(key, c_.key_dim, keys.begin() + c_.key_dim);
      std::copy_n(value, c_.value_dim, values.begin() + c_.value_dim);
      std::byte* bytes = storage_.back()->data();
      kv_page_encode(kernels_, shape, bytes, at % run.page_rows, 1, keys.data(), 0, values.data(),
                     0);
      kv_page_decode(kernels_, shape, bytes, at % run.page_rows, 1, keys.data(), 0,
                     c_.latent ? nullptr : values.data(), 0);
      std::copy_n(keys.begin() + c_.key_dim, c_.key_dim, key);
      if (codec_levels(run.key) > 0) {
        const KvLayout side = kv_layout({run.key, !c_.latent, run.page_rows, c_.key_dim});
        const auto parameter = [&](int64_t offset) {
          uint16_t half = 0;
          std::memcpy(&half, bytes + runs_.back().key_offset + offset + 2 * (at % run.page_rows),
                      sizeof(half));
          return static_cast<double>(half_to_float(half));
        };
        const int levels = codec_levels(run.key);
        const double middle = levels < 255 ? levels / 2.0 : 0;
        exact_[static_cast<size_t>(slot)] = parameter(side.min) + middle * parameter(side.step);
        codes_[static_cast<size_t>(slot)] = levels;
      }
      if (c_.latent) {
        std::copy_n(key, c_.value_dim, value);
      } else {
        std::copy_n(values.begin() + c_.value_dim, c_.value_dim, value);
      }
    }
  }

  AttentionCase c_;
  const KernelTable& kernels_;
  std::vector<float> keys_, values_, q_, sinks_;
  std::vector<double> wide_, short_;  // queries rounded for q8 and for fewer bits
  std::vector<double> exact_;         // what of a slot's key is multiplied with them as they are
  std::vector<int> codes_;            // largest code of a slot's key, 0: a number
  std::vector<KvRun> runs_;
  std::vector<std::unique_ptr<AlignedBytes>> storage_;
  std::vector<std::vector<const std::byte*>> page_lists_;
};

/// Σ over slots of p·|v| ≤ max|v|; a score carries key_dim roundings, relative to Σ|q|·|code·step|,
/// and e^x turns an absolute error of the score into a relative one of p.
inline Bound attention_bound(const AttentionCase& c) {
  const double largest_score = 2.0 * 4.0 * 5.0 * std::sqrt(static_cast<double>(c.key_dim));
  const double terms = static_cast<double>(c.key_dim) / 8 + largest_score / 4 + 64 +
                       static_cast<double>(c.slots()) / 64;
  return reordered<float>(terms, 5.0, 1);
}

/// Of the sum of `rows` rows' probabilities over a case's heads, which is rounded once a row.
inline Bound score_bound(const AttentionCase& c, int64_t rows) {
  Bound bound = attention_bound(c);
  bound.absolute = static_cast<double>(rows) *
                   (static_cast<double>(c.group) * bound.absolute + std::ldexp(0.5, -kScoreBits));
  bound.reason +=
      fmt::format(" x {} rows of {} heads, each rounded to 2^-{}", rows, c.group, kScoreBits);
  return bound;
}

/// What rounding the weights p·step of codes to 16 bits of the largest of their tile costs: half a
/// unit of each, times a code, times the step: 64 codes of a tile, range 10, and the largest p of
/// all tiles add up to 1 at most. Errors of rounding are independent, each at most half a unit, so
/// six times √(64/12) of a unit is more than any of these sums reach.
inline Bound weights_bound(const AttentionCase& c) {
  bool codes = false;
  for (const RunCase& run : c.runs) {
    codes = codes || codec_levels(c.latent ? run.key : run.value) > 0;
  }
  return statistical(codes ? 6 * std::sqrt(64.0 / 12) * 10.0 / 32639 : 0, c.seed, 64);
}

/// Every codec, several runs, raw rows, windows, sinks, odd sizes.
inline std::vector<AttentionCase> attention_cases() {
  std::vector<AttentionCase> list;
  for (const CodecKind codec : kCodecKinds) {
    const CodecKind f16 = CodecKind::kF16, f32 = CodecKind::kF32;
    list.push_back({{{codec, codec, 1}}, 1, 1, 1, 8, 8});
    list.push_back({{{codec, codec, 61, 5, 2}}, 3, 3, 2, 8, 8});
    list.push_back({{{codec, f32, 50}}, 15, 4, 3, 20, 12});
    list.push_back({{{f16, codec, 130, 32}}, 70, 70, 2, 64, 64});
    list.push_back({{{codec, codec, 320, 64}}, 13, 7, 1, 80, 96});
    list.push_back({{{codec, codec, 299, 48, 16}}, 1, 1, 4, 128, 128});
    list.push_back({{{codec, codec, 90}}, 210, 200, 2, 16, 24, 70});
    list.push_back({{{codec, codec, 240}}, 17, 9, 3, 16, 16, 1, true});
    list.push_back({{{codec, codec, 100}}, 30, 30, 2, 24, 16, 64, true});
    list.push_back({{{codec, codec, 32}}, 8, 5, 4, 16, 16, 0, true});
    list.push_back(
        {{{f16, f16, 70, 16, 3}, {codec, CodecKind::kQ8, 128, 64}, {codec, codec, 33, 1}},
         4,
         2,
         3,
         33,
         17});
    list.push_back({{{codec, codec, 100, 32, 16},
                     {CodecKind::kQ2, codec, 20, 16, 5},
                     {codec, CodecKind::kQ3, 64, 64},
                     {codec, codec, 7, 8}},
                    40,
                    20,
                    5,
                    40,
                    40,
                    0,
                    true});
    list.push_back({{{codec, codec, 4200, 64}}, 5, 3, 2, 16, 32, 0, true});
    list.push_back({{{codec, codec, 70}}, 20, 4, 3, 24, 10, 0, false, true});
    list.push_back({{{codec, codec, 200, 16, 7}}, 2, 1, 6, 72, 64, 50, false, true});
  }
  list.push_back({{}, 129, 129, 1, 33, 17});
  list.push_back({{}, 300, 280, 3, 32, 32});
  return list;
}

}  // namespace ashlar::test
