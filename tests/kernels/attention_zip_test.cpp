// Attention over segments of ZipCache (kernels/kv_zip.h) beside fp16 and raw rows.

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention.h"
#include "tests/kernels/collected.h"
#include "tests/kernels/kernel_support.h"
#include "tests/kernels/zip_support.h"
#include "tests/support/tolerance.h"

namespace ashlar::test {
namespace {

struct ZipCase {
  std::vector<std::pair<int64_t, int64_t>> segments;  ///< rows, of which so many salient
  int64_t late = 0, raw = 1, rows = 1, group = 1, key_dim = 64, value_dim = 64;
  int64_t page_rows = 16;
  bool sinks = false;
  uint64_t seed = 500;
};

std::vector<ZipCase> zip_cases() {
  return {{{{1, 1}}},
          {{{100, 60}}, 0, 3, 3, 2},
          {{{40, 0}, {7, 7}, {100, 60}}, 20, 5, 2, 3, 33, 17},
          {{{840, 504}, {100, 60}, {100, 60}, {100, 60}}, 48, 9, 1, 4, 128, 128},
          {{{300, 180}, {100, 60}, {100, 60}}, 32, 70, 70, 3, 16, 24, 48, true},
          {{{90, 54}, {100, 60}}, 16, 4, 4, 2, 20, 12, 3},
          {{{61, 37}, {25, 15}}, 5, 2, 1, 6, 40, 40, 8, true},
          {{{5000, 3000}, {100, 60}, {130, 78}}, 64, 3, 3, 1, 16, 16, 64}};
}

/// One KV head with everything it is made of, and what it decodes to.
class ZipProblem {
 public:
  ZipProblem(const KernelTable& kernels, const ZipCase& c)
      : c_(c), kernels_(kernels), pages_({c.key_dim, c.value_dim}, c.page_rows) {
    uint64_t seed = c.seed;
    q_ = normals(c.rows * c.group * c.key_dim, ++seed, 2.0);
    if (c.sinks) sinks_ = normals(c.group, ++seed, 2.0);
    for (size_t s = 0; s < c.segments.size(); ++s) {
      const auto [rows, salient] = c.segments[s];
      auto keys = normals(rows * c.key_dim, ++seed), values = normals(rows * c.value_dim, ++seed);
      for (size_t i = 0; i < keys.size(); ++i) keys[i] += static_cast<float>(i % 3) - 1;
      pages_.append(keys.data(), values.data(), rows, salient);
      const SlowSegment slow({c.key_dim, c.value_dim}, keys.data(), values.data(), rows, salient);
      pages_.decode(s, keys_, values_);
      min_.insert(min_.end(), slow.key_min.begin(), slow.key_min.end());
      step_.insert(step_.end(), slow.key_step.begin(), slow.key_step.end());
      for (int64_t t = 0; t < rows; ++t) middle_.push_back(t < salient ? 7.5 : 1.5);
    }
    zipped_ = std::ssize(keys_) / c.key_dim;
    add_late(seed);
    const auto k = normals(c.raw * c.key_dim, ++seed), v = normals(c.raw * c.value_dim, ++seed);
    keys_.insert(keys_.end(), k.begin(), k.end());
    values_.insert(values_.end(), v.begin(), v.end());
    runs_ = pages_.runs();
  }

  int64_t slots() const { return zipped_ + c_.late + c_.raw; }
  KvHeadView view() const {
    KvHeadView v;
    v.segments = runs_.data();
    v.segment_runs = std::ssize(runs_);
    if (c_.late > 0) {
      v.run_count = 1;
      v.runs[0] = kv_page_run(late_shape_, 0);
      v.runs[0].pages = &late_address_;
      v.runs[0].rows = c_.late;
    }
    v.raw_keys = keys_.data() + (zipped_ + c_.late) * c_.key_dim;
    v.raw_values = values_.data() + (zipped_ + c_.late) * c_.value_dim;
    v.raw_key_stride = c_.key_dim;
    v.raw_value_stride = c_.value_dim;
    return v;
  }
  AttentionTask task(int64_t first, int64_t n, int64_t head = -1) const {
    AttentionTask t;
    t.q = q_.data() + first * c_.group * c_.key_dim + (head < 0 ? 0 : head * c_.key_dim);
    t.q_stride = c_.group * c_.key_dim;
    t.rows = n;
    t.group = head < 0 ? c_.group : 1;
    t.key_dim = c_.key_dim;
    t.value_dim = c_.value_dim;
    t.scale = static_cast<float>(scale());
    t.raw_visible = c_.raw - c_.rows + 1 + first;
    if (c_.sinks) t.sinks = sinks_.data() + (head < 0 ? 0 : head);
    return t;
  }
  std::vector<float> run(AttentionTask t) const {
    const KvHeadView kv = view();
    std::vector<float> out(static_cast<size_t>(t.rows * t.group * t.value_dim));
    t.out = out.data();
    t.out_stride = t.group * t.value_dim;
    AlignedBytes scratch(scratch_bytes(t, t.scores.low != nullptr));
    attention_run(kernels_, kv, t, scratch.data());
    EXPECT_TRUE(scratch.intact());
    return out;
  }
  std::vector<float> run_splits(AttentionTask t) const {
    const KvHeadView kv = view();
    std::vector<float> out(static_cast<size_t>(t.rows * t.group * t.value_dim));
    t.out = out.data();
    t.out_stride = t.group * t.value_dim;
    const int64_t splits = attention_splits(kv, t), bytes = attention_partial_bytes(kv, t);
    AlignedBytes scratch(scratch_bytes(t, false)), partials(splits * bytes);
    for (int64_t i = splits - 1; i >= 0; --i) {
      attention_run_split(kernels_, kv, t, i, partials.data() + i * bytes, scratch.data());
    }
    attention_merge(kernels_, kv, t, partials.data());
    for (int64_t i = 0; t.scores.low != nullptr && i < splits; ++i) {
      attention_collect(kernels_, kv, t, i, partials.data());
    }
    EXPECT_TRUE(scratch.intact());
    EXPECT_TRUE(partials.intact());
    return out;
  }
  std::vector<double> probabilities(int64_t r, int64_t h) const {
    const int64_t visible = slots() - c_.rows + 1 + r;
    std::vector<double> p(static_cast<size_t>(slots()));
    const double sink = c_.sinks ? sinks_[static_cast<size_t>(h)] : -INFINITY;
    double top = std::max(-1e300, sink);
    for (int64_t j = 0; j < visible; ++j) {
      const double s = dot(r * c_.group + h, j) * scale();
      p[static_cast<size_t>(j)] = s;
      top = std::max(top, s);
    }
    double sum = std::exp(sink - top);
    for (int64_t j = 0; j < visible; ++j) {
      sum += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - top);
    }
    for (double& x : p) x /= sum;
    return p;
  }
  std::vector<double> reference() const {
    std::vector<double> out(static_cast<size_t>(c_.rows * c_.group * c_.value_dim));
    for (int64_t query = 0; query < c_.rows * c_.group; ++query) {
      const auto p = probabilities(query / c_.group, query % c_.group);
      for (int64_t j = 0; j < slots(); ++j) {
        for (int64_t i = 0; i < c_.value_dim; ++i) {
          out[static_cast<size_t>(query * c_.value_dim + i)] +=
              p[static_cast<size_t>(j)] * values_[static_cast<size_t>(j * c_.value_dim + i)];
        }
      }
    }
    return out;
  }
  /// A score carries key_dim roundings (attention_support.h); q·step and the weights of a tile are
  /// rounded to 16 bits.
  Bound bound() const {
    const double largest_score = 2.0 * 4.0 * 6.0 * std::sqrt(static_cast<double>(c_.key_dim));
    const double terms = static_cast<double>(c_.key_dim) / 8 + largest_score / 4 + 64 +
                         static_cast<double>(slots()) / 64;
    Bound b = reordered<float>(terms, 5.0, 1);
    b.absolute += 6 * std::sqrt(64.0 / 12) * 10.0 / 32639;
    return b;
  }

 private:
  double scale() const { return 1 / std::sqrt(static_cast<double>(c_.key_dim)); }
  int64_t scratch_bytes(const AttentionTask& t, bool collect) const {
    return attention_scratch_bytes(t.rows, t.group, view().encoded() + t.raw_visible + t.rows - 1,
                                   t.key_dim, t.value_dim, collect, view().all_runs());
  }
  void add_late(uint64_t& seed) {
    if (c_.late == 0) return;
    late_shape_ = {CodecKind::kF16, CodecKind::kF16, 1, c_.key_dim, c_.value_dim, false, c_.late};
    auto k = normals(c_.late * c_.key_dim, ++seed), v = normals(c_.late * c_.value_dim, ++seed);
    late_ = std::make_unique<AlignedBytes>(kv_page_bytes(late_shape_));
    late_address_ = late_->data();
    kv_page_encode(kernels_, late_shape_, late_->data(), 0, c_.late, k.data(), c_.key_dim, v.data(),
                   c_.value_dim);
    kv_page_decode(kernels_, late_shape_, late_->data(), 0, c_.late, k.data(), c_.key_dim, v.data(),
                   c_.value_dim);
    keys_.insert(keys_.end(), k.begin(), k.end());
    values_.insert(values_.end(), v.begin(), v.end());
  }
  /// With codes Σ (q·step)'·(code − m) + Σ q·(min + m·step), (q·step)' rounded to 127 levels of the
  /// largest.
  double dot(int64_t query, int64_t slot) const {
    const float* q = q_.data() + query * c_.key_dim;
    const auto at = static_cast<size_t>(slot * c_.key_dim);
    double total = 0, largest = 0;
    const bool codes = slot < zipped_;
    for (size_t i = 0; codes && i < static_cast<size_t>(c_.key_dim); ++i) {
      largest = std::max(largest, std::abs(q[i] * step_[at + i]));
    }
    const double levels = 127, middle = codes ? middle_[static_cast<size_t>(slot)] : 0;
    for (size_t i = 0; i < static_cast<size_t>(c_.key_dim); ++i) {
      if (!codes) {
        total += static_cast<double>(q[i]) * keys_[at + i];
        continue;
      }
      total += q[i] * (min_[at + i] + middle * step_[at + i]);
      if (step_[at + i] == 0) continue;
      const double code = std::nearbyint((keys_[at + i] - min_[at + i]) / step_[at + i]);
      total += std::nearbyint(q[i] * step_[at + i] * levels / largest) * (largest / levels) *
               (code - middle);
    }
    return total;
  }

  ZipCase c_;
  const KernelTable& kernels_;
  ZipPages pages_;
  std::vector<KvRun> runs_;
  KvPageShape late_shape_;
  std::unique_ptr<AlignedBytes> late_;
  const std::byte* late_address_ = nullptr;
  std::vector<float> keys_, values_, q_, sinks_;
  std::vector<double> min_, step_;
  std::vector<double> middle_;  // of the codes of a row
  int64_t zipped_ = 0;
};

class AttentionZip : public PerIsa {};
INSTANTIATE_TEST_SUITE_P(Isas, AttentionZip, ::testing::ValuesIn(supported_isas()), isa_test_name);

TEST_P(AttentionZip, MatchesTheDoubleReference) {
  int index = 0;
  for (const ZipCase& c : zip_cases()) {
    const ZipProblem problem(kernels(), c);
    EXPECT_TRUE(within(problem.run(problem.task(0, c.rows)), problem.reference(), problem.bound()))
        << "case " << index;
    ++index;
  }
}

TEST_P(AttentionZip, RowsHeadsSplitsAndScoresDoNotShow) {
  int index = 0;
  for (const ZipCase& c : zip_cases()) {
    const ZipProblem problem(kernels(), c);
    const auto all = problem.run(problem.task(0, c.rows));
    Collected scores(problem.slots()), split_scores = scores;
    AttentionTask scored = problem.task(0, c.rows);
    scored.scores = scores.sums();
    EXPECT_TRUE(same_bits(problem.run(scored), all)) << "scored, case " << index;
    EXPECT_TRUE(same_bits(problem.run_splits(problem.task(0, c.rows)), all)) << "case " << index;
    scored.scores = split_scores.sums();
    EXPECT_TRUE(same_bits(problem.run_splits(scored), all)) << "case " << index;
    EXPECT_EQ(split_scores, scores) << "case " << index;
    const int64_t width = c.group * c.value_dim;
    for (int64_t r = 0; r < c.rows; r += 1 + c.rows / 5) {
      const std::vector<float> want(all.begin() + r * width, all.begin() + (r + 1) * width);
      EXPECT_TRUE(same_bits(problem.run(problem.task(r, 1)), want)) << "row " << r << " alone";
      for (int64_t h = 0; h < c.group; ++h) {
        const std::vector<float> head(want.begin() + h * c.value_dim,
                                      want.begin() + (h + 1) * c.value_dim);
        EXPECT_TRUE(same_bits(problem.run(problem.task(r, 1, h)), head)) << "head " << h;
      }
    }
    ++index;
  }
}

// Probe rows alone score, and slots in front of the waiting ones get nothing: the numbers are those
// of the same rows and slots where all are wanted, in the same order.
TEST_P(AttentionZip, ProbeRowsAndSlotsScoreAlone) {
  for (const ZipCase& c : zip_cases()) {
    const ZipProblem problem(kernels(), c);
    const int64_t slots = problem.slots(), from = slots - c.raw - c.late;
    std::vector<uint8_t> probes(static_cast<size_t>(c.rows));
    for (size_t r = 0; r < probes.size(); ++r) probes[r] = r % 3 == 1 || r + 1 == probes.size();
    Collected want(slots), got(slots - from);
    std::vector<double> slow(want.low.size());
    for (int64_t r = 0; r < c.rows; ++r) {
      if (probes[static_cast<size_t>(r)] == 0) continue;
      AttentionTask one = problem.task(r, 1);
      one.scores = want.sums();
      problem.run(one);
      for (int64_t h = 0; h < c.group; ++h) {
        const auto p = problem.probabilities(r, h);
        for (size_t j = 0; j < p.size(); ++j) slow[j] += p[j];
      }
    }
    Bound bound = problem.bound();
    bound.absolute *= static_cast<double>(c.rows * c.group);
    bound.absolute += static_cast<double>(c.rows) * std::ldexp(0.5, -kScoreBits);
    EXPECT_TRUE(within(want.scores(), slow, bound));
    AttentionTask task = problem.task(0, c.rows);
    task.scores = got.sums();
    task.score_rows = probes.data();
    task.score_slots = from;
    const auto out = problem.run(task);
    EXPECT_TRUE(same_bits(out, problem.run(problem.task(0, c.rows))));
    const auto all = want.scores();
    const std::vector<double> waiting(all.begin() + from, all.end());
    EXPECT_EQ(got.scores(), waiting);
    got = Collected(slots - from);
    task.scores = got.sums();
    problem.run_splits(task);
    EXPECT_EQ(got.scores(), waiting);
  }
}

// Where a page begins does not show while sixteens of rows lie alike.
TEST_P(AttentionZip, PageSizesDoNotShow) {
  ZipCase c{{{300, 180}, {100, 60}, {100, 60}}, 32, 5, 5, 3, 32, 24};
  const ZipProblem one(kernels(), c);
  const auto want = one.run(one.task(0, c.rows));
  for (const int64_t rows : {48, 64, 256}) {
    c.page_rows = rows;
    const ZipProblem other(kernels(), c);
    EXPECT_TRUE(same_bits(other.run(other.task(0, c.rows)), want)) << rows;
  }
}

// A constant channel of keys, a channel of zero values and a segment of zeros.
TEST_P(AttentionZip, DegenerateSegmentsAreFinite) {
  const ZipShape shape{24, 24};
  for (const float level : {0.0f, 2.0f}) {
    ZipPages pages(shape, 16);
    std::vector<float> keys(70 * 24, level), values(70 * 24, level);
    pages.append(keys.data(), values.data(), 70, 42);
    const auto runs = pages.runs();
    KvHeadView v;
    v.segments = runs.data();
    v.segment_runs = std::ssize(runs);
    const auto q = normals(24, 3);
    std::vector<float> out(24), zero(24);
    AttentionTask t;
    t.q = q.data();
    t.rows = t.group = 1;
    t.key_dim = t.value_dim = 24;
    t.scale = 0.2f;
    t.out = out.data();
    AlignedBytes scratch(attention_scratch_bytes(1, 1, 70, 24, 24, false, 2));
    attention_run(kernels(), v, t, scratch.data());
    for (const float x : out) EXPECT_NEAR(x, level, level * 0x1p-10);
  }
}

}  // namespace
}  // namespace ashlar::test
