// Times the linear maps and the Hadamard transform of the active ISA (ASHLAR_ISA forces one) and
// checks each against a double reference first. Weights rotate through copies larger than any
// cache, so that one token per step shows memory bandwidth. Threads: ASHLAR_BENCH_THREADS, default
// all cores.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "core/base/cpu.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"

namespace ashlar {
namespace {

constexpr int64_t kBeyondCaches = int64_t{256} << 20;

ThreadPool& pool() {
  static ThreadPool threads = [] {
    const char* wanted = std::getenv("ASHLAR_BENCH_THREADS");
    return ThreadPool(wanted == nullptr ? 0 : std::atoi(wanted));
  }();
  return threads;
}

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{4096}); }
};
using Aligned = std::unique_ptr<std::byte, AlignedDelete>;
Aligned allocate(int64_t bytes) {
  return Aligned(static_cast<std::byte*>(
      ::operator new (static_cast<size_t>(bytes) + 64, std::align_val_t{4096})));
}

std::vector<float> normals(int64_t n, uint64_t seed) {
  const Philox rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  return x;
}

void expect_near(double actual, double want, double bound, const std::string& what) {
  require(std::abs(actual - want) <= bound, ErrorCode::kInternal,
          "{}: got {}, the reference is {} ± {}", what, actual, want, bound);
}

/// Random weights in file order and what one of them is worth.
struct Weights {
  LinearShape shape;
  std::vector<std::byte> data;
  std::vector<uint16_t> scale, min;

  LinearSource source() const {
    const auto bytes = [](const std::vector<uint16_t>& v) {
      return v.empty() ? nullptr : reinterpret_cast<const std::byte*>(v.data());
    };
    return {data.data(), bytes(scale), bytes(min)};
  }

  explicit Weights(const LinearShape& s) : shape(s) {
    const int64_t n = s.out * s.in;
    const Philox rng(1);
    if (s.group == 0) {
      const bool wide = s.weight == WeightKind::kF32;
      data.resize(static_cast<size_t>(n * (wide ? 4 : 2)));
      for (int64_t i = 0; i < n; ++i) {
        const float w = static_cast<float>(rng.uniform(static_cast<uint64_t>(i)) - 0.5);
        const uint16_t h = s.weight == WeightKind::kF16 ? float_to_half(w) : float_to_bfloat(w);
        std::memcpy(&data[static_cast<size_t>(i * (wide ? 4 : 2))],
                    wide ? static_cast<const void*>(&w) : &h, wide ? 4 : 2);
      }
      return;
    }
    data.resize(static_cast<size_t>(s.weight == WeightKind::kQ8 ? n : s.out * ((s.in + 1) / 2)));
    for (size_t i = 0; i < data.size(); i += 4) {
      const uint32_t word = rng.block(i)[0];
      std::memcpy(&data[i], &word, std::min<size_t>(4, data.size() - i));
    }
    const size_t groups = static_cast<size_t>(s.out * ((s.in + s.group - 1) / s.group));
    scale.assign(groups, float_to_half(0.01f));
    if (s.has_min) min.assign(groups, float_to_half(-0.08f));
  }

  double at(int64_t o, int64_t k) const {
    const size_t i = static_cast<size_t>(o * shape.in + k);
    if (shape.weight == WeightKind::kF32) {
      float w = 0;
      std::memcpy(&w, &data[4 * i], 4);
      return w;
    }
    if (shape.group == 0) {
      uint16_t h = 0;
      std::memcpy(&h, &data[2 * i], 2);
      return shape.weight == WeightKind::kF16 ? half_to_float(h) : bfloat_to_float(h);
    }
    const bool nibbles = shape.weight == WeightKind::kQ4;
    const size_t row = static_cast<size_t>(o * (nibbles ? (shape.in + 1) / 2 : shape.in));
    int code = static_cast<int>(data[row + static_cast<size_t>(nibbles ? k / 2 : k)]);
    if (nibbles) code = code >> (k % 2 * 4) & 15;
    const int top = nibbles ? 8 : 128;
    if (!shape.has_min && code >= top) code -= 2 * top;
    const double base = shape.has_min ? half_to_float(float_to_half(-0.08f)) : 0.0;
    return base + half_to_float(float_to_half(0.01f)) * code;
  }
};

/// Compares sampled outputs with double sums; int8 activations may be off by half a code each.
void check_linear(const Weights& w, const std::vector<float>& x, const std::vector<float>& y,
                  int64_t tokens) {
  const LinearShape& s = w.shape;
  for (int64_t sample = 0; sample < 64; ++sample) {
    const int64_t t = sample * 7919 % tokens, o = sample * 104729 % s.out;
    double sum = 0, norm = 0;
    for (int64_t k = 0; k < s.in; ++k) {
      const double a = x[static_cast<size_t>(t * s.in + k)];
      sum += a * w.at(o, k);
      norm += std::abs(a * w.at(o, k));
    }
    // |a| < 6 and a code of it is 6/127 wide at most; the errors of one sum are independent.
    const double rounding = s.activation == ActivationKind::kInt8
                                ? 6 * 3.0 / 127 * std::sqrt(static_cast<double>(s.in))
                                : 0;
    expect_near(y[static_cast<size_t>(t * s.out + o)], sum, norm * 1e-5 + rounding, "linear");
  }
}

void bench_linear(benchmark::State& state, LinearShape shape, int64_t tokens, bool rotate) {
  const Weights weights(shape);
  const int64_t bytes = linear_packed_bytes(shape);
  const int64_t copies = rotate ? (kBeyondCaches + bytes - 1) / bytes : 1;
  const int64_t stride = (bytes + 4095) / 4096 * 4096;
  const Aligned packed = allocate(stride * copies);
  for (int64_t c = 0; c < copies; ++c) {
    if (c == 0) {
      linear_pack(shape, weights.source(), packed.get());
    } else {
      std::memcpy(packed.get() + c * stride, packed.get(), static_cast<size_t>(bytes));
    }
  }
  const Aligned scratch = allocate(linear_scratch_bytes(shape, tokens));
  const std::vector<float> x = normals(tokens * shape.in, 2);
  std::vector<float> y(static_cast<size_t>(tokens * shape.out));
  int64_t copy = 0;
  const auto run = [&] {
    linear_run(shape, packed.get() + copy * stride, nullptr, x.data(), shape.in, tokens, y.data(),
               shape.out, scratch.get(), pool());
    copy = (copy + 1) % copies;
  };
  run();
  check_linear(weights, x, y, tokens);
  for (auto _ : state) run();
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(bytes) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(runs * 2e-9 * static_cast<double>(shape.out * shape.in * tokens),
                         benchmark::Counter::kIsRate);
}

/// Sum of a 1 GiB buffer: the bandwidth that one-token linear maps can reach at most.
void bench_read(benchmark::State& state) {
  const int64_t words = int64_t{1} << 27, chunk = int64_t{1} << 17;
  const Aligned data = allocate(words * 8);
  std::memset(data.get(), 1, static_cast<size_t>(words * 8));
  const auto* values = reinterpret_cast<const uint64_t*>(data.get());
  std::vector<uint64_t> sums(static_cast<size_t>(words / chunk));
  for (auto _ : state) {
    pool().parallel_for(words / chunk, [&](int64_t i, int) {
      uint64_t s[8] = {};
      for (int64_t j = 0; j < chunk; j += 8) {
        for (int l = 0; l < 8; ++l) s[l] += values[i * chunk + j + l];
      }
      sums[static_cast<size_t>(i)] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    });
    benchmark::DoNotOptimize(sums.data());
  }
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(words) * 8e-9,
      benchmark::Counter::kIsRate);
}

void bench_hadamard(benchmark::State& state, int64_t n) {
  const HadamardPlan plan = hadamard_plan(n);
  const std::vector<float> original = normals(n, 6);
  std::vector<float> x = original, scratch(x.size());
  hadamard_apply(plan, x.data(), scratch.data());
  hadamard_apply(plan, x.data(), scratch.data(), true);
  for (int64_t i = 0; i < n; ++i) {
    expect_near(x[static_cast<size_t>(i)], original[static_cast<size_t>(i)], 1e-4, "hadamard");
  }
  for (auto _ : state) {
    hadamard_apply(plan, x.data(), scratch.data());
    benchmark::DoNotOptimize(x.data());
  }
  state.counters["Melem/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(n) * 1e-6,
                         benchmark::Counter::kIsRate);
}

void add_linear(const char* name, LinearShape shape) {
  for (const int64_t tokens : {1, 4, 512}) {
    LinearShape s = shape;
    s.out = s.in = tokens == 512 ? 2048 : 4096;
    benchmark::RegisterBenchmark(
        fmt::format("linear/{}/{}x{}/tokens:{}", name, s.out, s.in, tokens).c_str(), bench_linear,
        s, tokens, tokens < 512)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
}

void add_all() {
  constexpr auto kF32 = ActivationKind::kF32, kInt8 = ActivationKind::kInt8;
  benchmark::RegisterBenchmark("read/1GiB", bench_read)->UseRealTime();
  add_linear("f32", {0, 0, 0, WeightKind::kF32, false, kF32});
  add_linear("f16", {0, 0, 0, WeightKind::kF16, false, kF32});
  add_linear("bf16", {0, 0, 0, WeightKind::kBF16, false, kF32});
  add_linear("q8g128", {0, 0, 128, WeightKind::kQ8, false, kF32});
  add_linear("q4g128", {0, 0, 128, WeightKind::kQ4, false, kF32});
  add_linear("q4g32", {0, 0, 32, WeightKind::kQ4, false, kF32});
  add_linear("q4g32min", {0, 0, 32, WeightKind::kQ4, true, kF32});
  add_linear("q8g128-int8", {0, 0, 128, WeightKind::kQ8, false, kInt8});
  add_linear("q4g32-int8", {0, 0, 32, WeightKind::kQ4, false, kInt8});
  add_linear("q4g32min-int8", {0, 0, 32, WeightKind::kQ4, true, kInt8});
  for (const int64_t n : {64, 1536, 4096, 11008, 14336}) {
    benchmark::RegisterBenchmark(fmt::format("hadamard/{}", n).c_str(), bench_hadamard, n);
  }
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  try {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    ashlar::add_all();
    benchmark::AddCustomContext("isa", std::string(ashlar::isa_name(ashlar::active_isa())));
    benchmark::AddCustomContext("threads", std::to_string(ashlar::pool().size()));
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
  } catch (const ashlar::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return error.exit_status();
  }
  return 0;
}
