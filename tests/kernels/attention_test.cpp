#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/kernels/kernel_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

/// One KV head with `slots` rows, of which the first `encoded` lie in pages, and queries for it.
struct AttentionCase {
  int64_t slots = 0, encoded = 0, rows = 1, group = 1, key_dim = 8, value_dim = 8;
  int64_t page_rows = 16;
  CodecKind key_codec = CodecKind::kF32, value_codec = CodecKind::kF32;
  uint64_t seed = 30;
  int64_t window = 0;
  bool sinks = false;
};

class Problem {
 public:
  Problem(const KernelTable& kernels, const AttentionCase& c) : c_(c), kernels_(kernels) {
    keys_ = normals(c.slots * c.key_dim, c.seed);
    values_ = normals(c.slots * c.value_dim, c.seed + 1);
    q_ = normals(c.rows * c.group * c.key_dim, c.seed + 2, 2.0);
    if (c.sinks) sinks_ = normals(c.group, c.seed + 3, 2.0);
    encode(keys_, c.key_codec, c.key_dim);
    encode(values_, c.value_codec, c.value_dim);
    const int64_t pages = (c.encoded + c.page_rows - 1) / c.page_rows;
    key_bytes_ = codec_vector_bytes(c.key_codec, c.key_dim) + 1;
    value_bytes_ = codec_vector_bytes(c.value_codec, c.value_dim);
    for (int64_t p = 0; p < pages; ++p) {
      pages_.emplace_back(
          static_cast<size_t>(kPageHead + c.page_rows * (key_bytes_ + value_bytes_)));
    }
    for (auto& page : pages_) page_pointers_.push_back(page.data());
    for (int64_t s = 0; s < c.encoded; ++s) {
      std::byte* page = pages_[static_cast<size_t>(s / c.page_rows)].data();
      const int64_t r = s % c.page_rows;
      kernels_.encode_row(c.key_codec, original_.data() + s * c.key_dim, c.key_dim,
                          page + kPageHead + r * key_bytes_);
      kernels_.encode_row(c.value_codec, original_.data() + c.slots * c.key_dim + s * c.value_dim,
                          c.value_dim,
                          page + kPageHead + c.page_rows * key_bytes_ + r * value_bytes_);
    }
  }

  KvHeadView view() const {
    KvHeadView v;
    v.key_codec = c_.key_codec;
    v.value_codec = c_.value_codec;
    v.pages = page_pointers_.data();
    v.page_rows = c_.page_rows;
    v.key_offset = kPageHead;
    v.value_offset = kPageHead + c_.page_rows * key_bytes_;
    v.key_stride = key_bytes_;
    v.value_stride = value_bytes_;
    v.encoded = c_.encoded;
    v.raw_keys = keys_.data() + c_.encoded * c_.key_dim;
    v.raw_values = values_.data() + c_.encoded * c_.value_dim;
    v.raw_key_stride = c_.key_dim;
    v.raw_value_stride = c_.value_dim;
    return v;
  }

  /// Rows [first, first + n) of the causal problem whose last row sees every slot.
  std::vector<float> run(int64_t first, int64_t n, std::vector<float>* scores = nullptr,
                         int64_t head = -1) const {
    return run_task(view(), first, n, scores, head, c_.value_dim);
  }

  /// The same over another view of the rows; values may be shorter than the stored ones.
  std::vector<float> run_on(const KvHeadView& kv, int64_t first, int64_t n,
                            int64_t value_dim = 0) const {
    return run_task(kv, first, n, nullptr, -1, value_dim == 0 ? c_.value_dim : value_dim);
  }

  std::vector<float> run_task(const KvHeadView& kv, int64_t first, int64_t n,
                              std::vector<float>* scores, int64_t head, int64_t value_dim) const {
    AttentionTask task;
    task.q = q_.data() + first * c_.group * c_.key_dim + (head < 0 ? 0 : head * c_.key_dim);
    task.q_stride = c_.group * c_.key_dim;
    task.rows = n;
    task.group = head < 0 ? c_.group : 1;
    task.key_dim = c_.key_dim;
    task.value_dim = value_dim;
    task.scale = scale();
    task.raw_visible = c_.slots - c_.encoded - c_.rows + 1 + first;
    std::vector<float> out(static_cast<size_t>(n * task.group * value_dim));
    task.out = out.data();
    task.out_stride = task.group * value_dim;
    task.scores = scores == nullptr ? nullptr : scores->data();
    task.window = c_.window;
    if (c_.sinks) task.sinks = sinks_.data() + (head < 0 ? 0 : head);
    const int64_t seen = c_.encoded + task.raw_visible + n - 1;
    AlignedBytes scratch(
        attention_scratch_bytes(n, task.group, seen, c_.key_dim, value_dim, scores != nullptr));
    attention_run(kernels_, kv, task, scratch.data());
    EXPECT_TRUE(scratch.intact());
    return out;
  }

  /// Out and probabilities summed over queries, in double from the decoded keys and values.
  void reference(std::vector<double>& out, std::vector<double>& scores) const {
    out.assign(static_cast<size_t>(c_.rows * c_.group * c_.value_dim), 0);
    scores.assign(static_cast<size_t>(c_.slots), 0);
    for (int64_t r = 0; r < c_.rows; ++r) {
      const int64_t visible = c_.slots - c_.rows + 1 + r;
      const int64_t first = c_.window > 0 ? std::max<int64_t>(0, visible - c_.window) : 0;
      for (int64_t h = 0; h < c_.group; ++h) {
        const float* q = q_.data() + (r * c_.group + h) * c_.key_dim;
        std::vector<double> s(static_cast<size_t>(visible));
        const double sink = c_.sinks ? sinks_[static_cast<size_t>(h)] : -INFINITY;
        double top = std::max(-1e300, sink), sum = 0;
        for (int64_t j = first; j < visible; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < c_.key_dim; ++i) {
            dot += static_cast<double>(q[i]) * keys_[static_cast<size_t>(j * c_.key_dim + i)];
          }
          s[static_cast<size_t>(j)] = dot * scale();
          top = std::max(top, dot * scale());
        }
        sum = std::exp(sink - top);
        for (int64_t j = first; j < visible; ++j) {
          double& v = s[static_cast<size_t>(j)];
          sum += v = std::exp(v - top);
        }
        double* o = out.data() + (r * c_.group + h) * c_.value_dim;
        for (int64_t j = first; j < visible; ++j) {
          const double p = s[static_cast<size_t>(j)] / sum;
          scores[static_cast<size_t>(j)] += p;
          for (int64_t i = 0; i < c_.value_dim; ++i) {
            o[i] += p * values_[static_cast<size_t>(j * c_.value_dim + i)];
          }
        }
      }
    }
  }

  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(c_.key_dim))); }
  const AttentionCase& shape() const { return c_; }

 private:
  static constexpr int64_t kPageHead = 24;

  /// Replaces encoded rows by what decoding gives and keeps the originals for encoding.
  void encode(std::vector<float>& x, CodecKind kind, int64_t dim) {
    original_.insert(original_.end(), x.begin(), x.end());
    std::vector<std::byte> row(static_cast<size_t>(codec_vector_bytes(kind, dim)));
    for (int64_t s = 0; s < c_.encoded; ++s) {
      kernels_.encode_row(kind, x.data() + s * dim, dim, row.data());
      kernels_.decode_row(kind, row.data(), dim, x.data() + s * dim);
    }
  }

  AttentionCase c_;
  const KernelTable& kernels_;
  std::vector<float> original_, keys_, values_, q_, sinks_;
  std::vector<std::vector<std::byte>> pages_;
  std::vector<const std::byte*> page_pointers_;
  int64_t key_bytes_ = 0, value_bytes_ = 0;
};

/// Σ over slots of p·|v| ≤ max|v|; a score carries key_dim roundings and e^x turns an absolute
/// error of the score into a relative one of p.
Bound attention_bound(const AttentionCase& c) {
  const double largest_score = 2.0 * 4.0 * 5.0 * std::sqrt(static_cast<double>(c.key_dim));
  const double terms = static_cast<double>(c.key_dim) / 8 + largest_score / 4 + 64 +
                       static_cast<double>(c.slots) / 64;
  return reordered<float>(terms, 5.0, 1);
}

class Attention : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, Attention, ::testing::ValuesIn(supported_isas()), isa_test_name);

std::vector<AttentionCase> cases() {
  std::vector<AttentionCase> list;
  for (const CodecKind codec : {CodecKind::kF32, CodecKind::kF16, CodecKind::kQ8, CodecKind::kQ4}) {
    list.push_back({1, 0, 1, 1, 8, 8, 16, codec, codec});
    list.push_back({64, 64 - 3, 3, 2, 8, 8, 5, codec, codec});
    list.push_back({65, 50, 4, 3, 20, 12, 16, codec, CodecKind::kF32});
    list.push_back({200, 130, 70, 2, 64, 64, 32, CodecKind::kF16, codec});
    list.push_back({333, 320, 7, 1, 80, 96, 64, codec, codec});
    list.push_back({129, 0, 129, 1, 33, 17, 16, codec, codec});
    list.push_back({300, 299, 1, 4, 128, 128, 48, codec, codec});
    list.push_back({300, 90, 200, 2, 16, 24, 16, codec, codec, 30, 70, false});
    list.push_back({257, 240, 9, 3, 16, 16, 16, codec, codec, 30, 1, true});
    list.push_back({130, 100, 30, 2, 24, 16, 16, codec, codec, 30, 64, true});
    list.push_back({40, 32, 5, 4, 16, 16, 16, codec, codec, 30, 0, true});
  }
  return list;
}

TEST_P(Attention, MatchesTheDoubleReference) {
  for (const AttentionCase& c : cases()) {
    const Problem problem(kernels(), c);
    std::vector<double> out, scores;
    problem.reference(out, scores);
    std::vector<float> got_scores(static_cast<size_t>(c.slots), 0.0f);
    const auto got = problem.run(0, c.rows, &got_scores);
    EXPECT_TRUE(within(got, out, attention_bound(c))) << c.slots << " slots";
    Bound bound = attention_bound(c);
    bound.absolute *= static_cast<double>(c.rows * c.group);
    EXPECT_TRUE(within(got_scores, scores, bound)) << c.slots << " slots";
    double total = 0, expected = 0;
    for (const float p : got_scores) total += p;
    for (const double p : scores) expected += p;
    EXPECT_NEAR(total, expected, bound.absolute);
    if (!c.sinks) {
      EXPECT_NEAR(total, static_cast<double>(c.rows * c.group), bound.absolute);
    }
  }
}

TEST_P(Attention, RowsHeadsAndScoresDoNotShow) {
  for (const AttentionCase& c : cases()) {
    const Problem problem(kernels(), c);
    const auto all = problem.run(0, c.rows);
    std::vector<float> scores(static_cast<size_t>(c.slots), 0.0f);
    EXPECT_TRUE(same_bits(problem.run(0, c.rows, &scores), all)) << "collecting changed the output";
    const int64_t width = c.group * c.value_dim;
    for (int64_t r = 0; r < c.rows; r += 1 + c.rows / 5) {
      const std::vector<float> want(all.begin() + r * width, all.begin() + (r + 1) * width);
      EXPECT_TRUE(same_bits(problem.run(r, 1), want)) << "row " << r << " alone";
      for (int64_t h = 0; h < c.group; ++h) {
        const std::vector<float> head(want.begin() + h * c.value_dim,
                                      want.begin() + (h + 1) * c.value_dim);
        EXPECT_TRUE(same_bits(problem.run(r, 1, nullptr, h), head)) << "head " << h << " alone";
      }
    }
    const int64_t cut = c.rows / 3;
    auto chunked = problem.run(0, cut);
    const auto rest = problem.run(cut, c.rows - cut);
    chunked.insert(chunked.end(), rest.begin(), rest.end());
    EXPECT_TRUE(same_bits(chunked, all)) << "chunked";
  }
}

// fp32-encoded and raw rows are the same numbers; so is any page size.
TEST_P(Attention, WhereARowIsStoredDoesNotShow) {
  AttentionCase c{210, 0, 9, 2, 24, 40, 16};
  const auto want = Problem(kernels(), c).run(0, c.rows);
  for (const int64_t encoded : {1, 63, 64, 65, 128, 201}) {
    for (const int64_t page_rows : {1, 16, 100, 512}) {
      c.encoded = encoded;
      c.page_rows = page_rows;
      EXPECT_TRUE(same_bits(Problem(kernels(), c).run(0, c.rows), want)) << encoded;
    }
  }
}

// Rows before every window may be anything; whole tiles of them may be gone, and a page pointer
// that no row needs may be null.
TEST_P(Attention, WhatAWindowHidesDoesNotShow) {
  AttentionCase c{330, 320, 3, 2, 16, 16, 16, CodecKind::kF16, CodecKind::kQ8};
  c.window = 100;
  c.sinks = true;
  const Problem problem(kernels(), c);
  const auto want = problem.run(0, 3);
  KvHeadView view = problem.view();
  // The first row sees slots 228 on: tiles 0 to 2 are gone.
  std::vector<const std::byte*> pages(view.pages, view.pages + 20);
  for (size_t p = 0; p < 12; ++p) pages[p] = nullptr;
  view.pages = pages.data();
  const auto again = problem.run_on(view, 0, 3);
  EXPECT_TRUE(same_bits(again, want));
  view.pages = pages.data() + 12;
  view.encoded -= 192;
  EXPECT_TRUE(same_bits(problem.run_on(view, 0, 3), want)) << "whole tiles removed";
}

TEST_P(Attention, AWindowOfEverythingIsNoWindow) {
  AttentionCase c{200, 130, 70, 2, 64, 64, 32, CodecKind::kF16, CodecKind::kF16};
  const auto want = Problem(kernels(), c).run(0, 70);
  for (const int64_t window : {200, 1000}) {
    c.window = window;
    EXPECT_TRUE(same_bits(Problem(kernels(), c).run(0, 70), want)) << window;
  }
}

// The value as the first elements of the key, read from the same bytes (latent attention).
TEST_P(Attention, ValuesMayLieInTheKeys) {
  for (const CodecKind codec : {CodecKind::kF32, CodecKind::kF16, CodecKind::kQ8, CodecKind::kQ4}) {
    const AttentionCase c{90, 70, 4, 3, 24, 24, 16, codec, codec};
    const Problem problem(kernels(), c);
    KvHeadView view = problem.view();
    view.value_offset = view.key_offset;
    view.value_stride = view.key_stride;
    view.raw_values = view.raw_keys;
    view.raw_value_stride = view.raw_key_stride;
    const auto whole = problem.run_on(view, 0, 4), part = problem.run_on(view, 0, 4, 10);
    for (size_t i = 0; i < 12; ++i) {
      const std::vector<float> got(&part[i * 10], &part[i * 10] + 10);
      EXPECT_TRUE(same_bits(got, {&whole[i * 24], &whole[i * 24] + 10})) << i;
    }
    const std::vector<float> copy(view.raw_keys, view.raw_keys + 20 * 24);
    view.raw_values = copy.data();
    EXPECT_TRUE(same_bits(problem.run_on(view, 0, 4), whole)) << "values of their own";
    EXPECT_TRUE(same_bits(problem.run_on(view, 0, 4, 10), part)) << "values of their own";
  }
}

TEST_P(Attention, ScoresAddUpInOrder) {
  const AttentionCase c{100, 60, 5, 2, 16, 16, 16};
  const Problem problem(kernels(), c);
  std::vector<float> all(100, 0.25f), one_by_one(100, 0.25f);
  problem.run(0, 5, &all);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t h = 0; h < 2; ++h) problem.run(r, 1, &one_by_one, h);
  }
  EXPECT_TRUE(same_bits(all, one_by_one));
}

TEST_P(Attention, SlotsBeyondARowDoNotReachIt) {
  const AttentionCase c{70, 0, 70, 1, 16, 16, 16};
  const Problem problem(kernels(), c);
  const auto all = problem.run(0, 70);
  AttentionCase shorter = c;
  shorter.slots = shorter.rows = 70;
  Problem poisoned(kernels(), shorter);
  KvHeadView view = poisoned.view();
  std::vector<float> keys(view.raw_keys, view.raw_keys + 70 * 16),
      values(view.raw_values, view.raw_values + 70 * 16);
  for (size_t i = 40 * 16; i < keys.size(); ++i) keys[i] = values[i] = std::nanf("");
  view.raw_keys = keys.data();
  view.raw_values = values.data();
  const auto q = normals(70 * 16, 32, 2.0);
  std::vector<float> out(70 * 16);
  const AttentionTask task{q.data(),        16, 70,         1,  16,     16,
                           problem.scale(), 1,  out.data(), 16, nullptr};
  AlignedBytes scratch(attention_scratch_bytes(70, 1, 70, 16, 16, false));
  attention_run(kernels(), view, task, scratch.data());
  EXPECT_TRUE(
      same_bits({out.begin(), out.begin() + 40 * 16}, {all.begin(), all.begin() + 40 * 16}));
  EXPECT_TRUE(std::isnan(out[40 * 16]));
}

TEST(AttentionIsas, FmaIsasAgreeBitForBit) {
  for (const AttentionCase& c : cases()) {
    std::vector<float> want;
    for (const Isa isa : fma_isas()) {
      const auto out = Problem(kernels_for(isa), c).run(0, c.rows);
      if (want.empty()) want = out;
      EXPECT_TRUE(same_bits(out, want)) << isa_name(isa);
    }
  }
}

TEST(AttentionChecks, NothingVisibleIsAProgrammerError) {
  KvHeadView view;
  AttentionTask task;
  task.rows = task.group = 1;
  task.key_dim = task.value_dim = 8;
  EXPECT_THROW(attention_run(view, task, nullptr), Error);
  EXPECT_THROW(attention_scratch_bytes(int64_t{1} << 40, 8, int64_t{1} << 40, 64, 64), Error);
  EXPECT_EQ(attention_scratch_bytes(4, 2, 100, 64, 64, false),
            attention_scratch_bytes(4, 2, 100000, 64, 64, false));
}

}  // namespace
}  // namespace ashlar::test
