#include "bench/attention_reference.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "core/base/cpu.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "kernels/linear.h"

namespace ashlar {
namespace {

/// What attention should come to, and the standard deviation of what rounding queries to bytes
/// (kernels/attention.h) adds.
struct Expected {
  std::vector<double> out, deviation;
};

/// softmax(scale·q·K)·V over `slots` rows in double. noise [rows, dim]: what a rounded element of q
/// moves q·k of each row of codes by, in standard deviations; rows behind them have none. Errors
/// ε_i of the elements move the output by Σ_i ε_i·Σ_j p_j·noise_{j,i}·(v_j − out).
Expected attend(const float* q, const float* keys, int64_t key_stride, const float* values,
                int64_t value_stride, int64_t slots, int64_t dim,
                const std::vector<double>& noise = {}) {
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  std::vector<double> p(static_cast<size_t>(slots));
  double sum = 0;
  for (int64_t j = 0; j < slots; ++j) {
    double dot = 0;
    for (int64_t i = 0; i < dim; ++i) dot += static_cast<double>(q[i]) * keys[j * key_stride + i];
    sum += p[static_cast<size_t>(j)] = std::exp(dot * scale);
  }
  const auto width = static_cast<size_t>(dim);
  Expected expected{std::vector<double>(width), std::vector<double>(width)};
  std::vector<double> moved(width);
  for (size_t i = 0; i < width; ++i) {
    const auto value = [&](size_t j) {
      return static_cast<double>(
          values[static_cast<int64_t>(j) * value_stride + static_cast<int64_t>(i)]);
    };
    double& out = expected.out[i];
    for (size_t j = 0; j < p.size(); ++j) out += p[j] / sum * value(j);
    std::fill(moved.begin(), moved.end(), 0.0);
    for (size_t j = 0; j < noise.size() / width; ++j) {
      const double weight = p[j] / sum * scale * (value(j) - out);
      for (size_t e = 0; e < width; ++e) moved[e] += weight * noise[j * width + e];
    }
    for (const double x : moved) expected.deviation[i] += x * x;
    expected.deviation[i] = std::sqrt(expected.deviation[i]);
  }
  return expected;
}

void expect_near(const float* got, const Expected& want, const char* what) {
  for (size_t i = 0; i < want.out.size(); ++i) {
    require(std::abs(got[i] - want.out[i]) <= 1e-4 + 6 * want.deviation[i], ErrorCode::kInternal,
            "{}: element {} is {}, the reference {}", what, i, got[i], want.out[i]);
  }
}

/// Of rounding elements of which the largest is `largest` to bytes: a step over √12.
double byte_noise(double largest) { return largest / 127 / std::sqrt(12.0); }

/// Of rows of codes with parameters of their own, whose middle is that of the row.
std::vector<double> row_noise(CodecKind codec, const float* q, const float* keys, int64_t stride,
                              int64_t rows, int64_t dim) {
  std::vector<double> noise;
  if (codec < CodecKind::kQ4) return noise;
  double largest = 0;
  for (int64_t i = 0; i < dim; ++i) largest = std::max<double>(largest, std::abs(q[i]));
  for (int64_t j = 0; j < rows; ++j) {
    const float* k = keys + j * stride;
    const auto [low, high] = std::minmax_element(k, k + dim);
    const double middle = (static_cast<double>(*low) + *high) / 2;
    for (int64_t i = 0; i < dim; ++i) noise.push_back(byte_noise(largest) * (k[i] - middle));
  }
  return noise;
}

/// Adds that of a run whose parameters are those of channels.
void add_run_noise(const KvRun& run, const float* q, const float* keys, int64_t dim,
                   std::vector<double>& noise) {
  std::vector<double> min, step;
  double largest = 0;
  for (int64_t i = 0; i < dim; ++i) {
    uint16_t half[2];
    std::memcpy(&half[0], run.key_channels + 2 * i, sizeof(half[0]));
    std::memcpy(&half[1], run.key_channels + 2 * (dim + i), sizeof(half[1]));
    min.push_back(half_to_float(half[0]));
    step.push_back(half_to_float(half[1]));
    largest = std::max(largest, std::abs(q[i] * step.back()));
  }
  const double middle = codec_levels(run.key_codec) / 2.0;
  for (int64_t j = 0; j < run.rows; ++j) {
    for (size_t i = 0; i < min.size(); ++i) {
      const double k = keys[j * dim + static_cast<int64_t>(i)];
      const double off = step[i] > 0 ? (k - min[i]) / step[i] - middle : 0;
      noise.push_back(byte_noise(largest) * off);
    }
  }
}

#define ASHLAR_FMA_LOOP(name, isa, V, width, set, step)                              \
  __attribute__((target(isa))) int64_t name(int64_t rounds, float* out) {            \
    V a[12];                                                                         \
    for (int i = 0; i < 12; ++i) a[i] = set(static_cast<float>(i));                  \
    const V x = set(0.999f), y = set(0.001f);                                        \
    for (int64_t r = 0; r < rounds; ++r) {                                           \
      _Pragma("GCC unroll 12") for (int i = 0; i < 12; ++i) a[i] = step(a[i], x, y); \
    }                                                                                \
    V sum = a[0];                                                                    \
    for (int i = 1; i < 12; ++i) sum = step(a[i], x, sum);                           \
    std::memcpy(out, &sum, sizeof(float));                                           \
    return rounds * 12 * (width);                                                    \
  }
// Twelve chains hide the latency of one. Each returns its multiply-adds.
ASHLAR_FMA_LOOP(fma_avx512, "avx512f", __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps)
ASHLAR_FMA_LOOP(fma_avx2, "avx2,fma", __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps)
#define ASHLAR_TWO_STEPS(a, x, y) _mm_add_ps(_mm_mul_ps(a, x), y)
ASHLAR_FMA_LOOP(fma_generic, "sse2", __m128, 4, _mm_set1_ps, ASHLAR_TWO_STEPS)
#undef ASHLAR_TWO_STEPS
#undef ASHLAR_FMA_LOOP

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{64}); }
};
using Aligned = std::unique_ptr<std::byte, AlignedDelete>;
Aligned allocate(int64_t bytes) {
  return Aligned(
      static_cast<std::byte*>(::operator new (static_cast<size_t>(bytes), std::align_val_t{64})));
}

}  // namespace

void check_decode(const KvPageShape& page, int64_t head, const KvHeadView& kv,
                  const AttentionTask& task) {
  const KvRun& run = kv.runs[0];
  const int64_t width = page.heads * page.key_dim;
  std::vector<float> keys(static_cast<size_t>((run.rows + 1) * width)), values(keys.size());
  for (int64_t p = 0; p * page.page_rows < run.rows; ++p) {
    const int64_t first = p * page.page_rows * width;
    kv_page_decode(page, run.pages[p], 0, page.page_rows, keys.data() + first, width,
                   values.data() + first, width);
  }
  const int64_t at = head * page.key_dim;
  std::copy_n(kv.raw_keys, page.key_dim, keys.begin() + run.rows * width + at);
  std::copy_n(kv.raw_values, page.value_dim, values.begin() + run.rows * width + at);
  for (int64_t h = 0; h < task.group; ++h) {
    expect_near(task.out + h * task.value_dim,
                attend(task.q + h * task.key_dim, keys.data() + at, width, values.data() + at,
                       width, run.rows + 1, task.key_dim,
                       row_noise(run.key_codec, task.q + h * task.key_dim, keys.data() + at, width,
                                 run.rows, task.key_dim)),
                "decode");
  }
}

void check_segments(const ZipShape& shape, const KvHeadView& kv, const AttentionTask& task) {
  std::vector<float> keys, values;
  for (int64_t r = 0; r < kv.all_runs(); ++r) {
    const KvRun& run = kv.run(r);
    const KvPageShape page = zip_page(shape, run.key_codec, run.page_rows);
    for (int64_t row = run.first; row < run.first + run.rows; ++row) {
      keys.resize(keys.size() + static_cast<size_t>(shape.key_dim));
      values.resize(values.size() + static_cast<size_t>(shape.value_dim));
      zip_decode(page, run.pages[row / run.page_rows], row % run.page_rows, 1,
                 keys.data() + keys.size() - shape.key_dim, 0,
                 values.data() + values.size() - shape.value_dim, 0,
                 {run.key_channels, run.value_channels});
    }
  }
  keys.insert(keys.end(), kv.raw_keys, kv.raw_keys + shape.key_dim);
  values.insert(values.end(), kv.raw_values, kv.raw_values + shape.value_dim);
  for (int64_t h = 0; h < task.group; ++h) {
    const float* q = task.q + h * task.key_dim;
    std::vector<double> noise;
    for (int64_t r = 0, row = 0; r < kv.all_runs(); row += kv.run(r++).rows) {
      add_run_noise(kv.run(r), q, keys.data() + row * shape.key_dim, shape.key_dim, noise);
    }
    expect_near(task.out + h * task.value_dim,
                attend(q, keys.data(), shape.key_dim, values.data(), shape.value_dim,
                       kv.encoded() + 1, task.key_dim, noise),
                "segments");
  }
}

void check_prompt(int64_t kv_heads, int64_t group, int64_t dim, int64_t n,
                  const std::vector<float>& q, const std::vector<float>& keys,
                  const std::vector<float>& values, const std::vector<float>& out) {
  for (int64_t sample = 0; sample < 12; ++sample) {
    const int64_t row = sample == 0 ? n - 1 : sample * 7919 % n;
    const int64_t h = sample * 5 % (kv_heads * group), kv = h / group;
    const int64_t at = (row * kv_heads * group + h) * dim;
    expect_near(out.data() + at,
                attend(q.data() + at, keys.data() + kv * dim, kv_heads * dim,
                       values.data() + kv * dim, kv_heads * dim, row + 1, dim),
                "prompt");
  }
}

double fma_flops(const Clock& clock, ThreadPool& pool) {
  constexpr int64_t kRounds = 20'000'000;
  double best = 1e9;
  std::vector<float> sink(static_cast<size_t>(pool.size()));
  std::vector<int64_t> done(sink.size());
  for (int i = 0; i < 5; ++i) {
    best = std::min(best, clock.seconds([&] {
      pool.parallel_for(pool.size(), [&](int64_t k, int) {
        const size_t t = static_cast<size_t>(k);
        done[t] = active_isa() == Isa::kGeneric ? fma_generic(kRounds, &sink[t])
                  : active_isa() == Isa::kAvx2  ? fma_avx2(kRounds, &sink[t])
                                                : fma_avx512(kRounds, &sink[t]);
      });
    }));
  }
  double total = 0;
  for (const int64_t n : done) total += 2.0 * static_cast<double>(n);
  return total / best;
}

double product_flops(const Clock& clock, ThreadPool& pool, int repeat) {
  const LinearShape shape{2048, 2048, 0, WeightKind::kF32, false, ActivationKind::kF32};
  const int64_t tokens = 512;
  const Philox rng(9);
  std::vector<float> weights(static_cast<size_t>(shape.out * shape.in));
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(rng.uniform(i) - 0.5);
  std::vector<float> x(static_cast<size_t>(tokens * shape.in), 0.5f), y(x.size());
  const Aligned packed = allocate(linear_packed_bytes(shape));
  const Aligned scratch = allocate(linear_scratch_bytes(shape, tokens) + 64);
  linear_pack(shape, {reinterpret_cast<const std::byte*>(weights.data()), nullptr, nullptr},
              packed.get());
  double best = 1e9;
  for (int i = 0; i < 2 * repeat; ++i) {
    best = std::min(best, clock.seconds([&] {
      linear_run(shape, packed.get(), nullptr, x.data(), shape.in, tokens, y.data(), shape.out,
                 scratch.get(), pool);
    }));
  }
  return static_cast<double>(2 * tokens * shape.out * shape.in) / best;
}

}  // namespace ashlar
