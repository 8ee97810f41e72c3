// Attention over caches larger than any cache of the processor, as shares of the bandwidth at which
// the same threads read memory, and over a prompt, as a share of the fp32 product's throughput.
// Each configuration is checked against double first. Other programs may use the machine: what is
// compared is measured in turn within one run, and the best of `--repeat` counts.
#include "kernels/attention.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/attention_caches.h"
#include "bench/attention_reference.h"
#include "bench/status.h"
#include "core/base/cpu.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "kernels/kv_page.h"

namespace ashlar {
namespace {

struct Options {
  double gib = 1;
  int64_t slots = 16384, page_rows = 64, prompt = 4096;
  int threads = 0, repeat = 5;
  bool cpu_time = false;
  std::vector<std::string> codecs = {"fp16", "bf16", "q8", "q4", "q3", "q2", "zipcache"};
  std::string only, shape;
};

Shape shape_from(const std::string& text) {
  Shape s{};
  std::istringstream in(text);
  char x = 0, y = 0;
  const bool read = static_cast<bool>(in >> s.kv_heads >> x >> s.group >> y >> s.dim);
  require(read && x == 'x' && y == 'x' && std::min({s.kv_heads, s.group, s.dim}) >= 1 && in.eof(),
          ErrorCode::kRequest, "--shape: '{}' is not KV heads x queries of each x dim", text);
  return s;
}

/// Seconds to read `bytes` once, by chunks of 1 MiB: as fast as lines can be had, fetched ahead of
/// their use, which a plain loop of loads need not reach.
double read_seconds(const Clock& clock, const std::byte* data, int64_t bytes, ThreadPool& pool) {
  const int64_t chunk = int64_t{1} << 20, chunks = bytes / chunk;
  std::vector<uint64_t> sums(static_cast<size_t>(chunks));
  const double time = clock.seconds([&] {
    pool.parallel_for(chunks, [&](int64_t i, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(data + i * chunk);
      uint64_t s[8] = {};
      for (int64_t j = 0; j < chunk / 8; j += 8) {
        __builtin_prefetch(words + j + 512, 0, 2);
        for (int l = 0; l < 8; ++l) s[l] += words[j + l];
      }
      for (const uint64_t v : s) sums[static_cast<size_t>(i)] += v;
    });
  });
  static volatile uint64_t sink;
  for (const uint64_t v : sums) sink = sink + v;
  return time * static_cast<double>(bytes) / static_cast<double>(chunks * chunk);
}

// Rows of the segments that a codec's name stands for: "zipcache" one, as a prompt leaves it,
// "zipcache:100" of so many rows, as decoding does. 0: a codec of rows.
int64_t segment_rows(const std::string& name, const Options& o) {
  constexpr std::string_view kZip = "zipcache";
  if (name == kZip) return o.slots;
  if (!name.starts_with(kZip)) {
    codec_from_name(name);  // throws if there is none
    return 0;
  }
  int64_t every = 0;
  std::istringstream in(name.substr(kZip.size()));
  char colon = 0;
  const bool read = static_cast<bool>(in >> colon >> every);
  require(read && colon == ':' && in.eof() && every >= 1 && every <= o.slots, ErrorCode::kRequest,
          "--codecs: '{}' is not zipcache:N with N from 1 to the {} entries of a sequence", name,
          o.slots);
  return every;
}

std::unique_ptr<BenchCache> make_cache(const std::string& name, const Options& o,
                                       const Shape& shape, const Memory& memory) {
  const int64_t every = segment_rows(name, o);
  if (every == 0) {
    return std::make_unique<RowCache>(shape, codec_from_name(name), o.gib, o.slots, o.page_rows,
                                      memory);
  }
  return std::make_unique<SegmentCache>(shape, every, o.gib, o.slots, o.page_rows, memory);
}

void bench_decode(const Options& o, const std::vector<Shape>& shapes, const Clock& clock,
                  const Memory& memory, ThreadPool& pool) {
  fmt::print("\n{:<12} {:<12} {:>12} {:>8} {:>12} {:>10} {:>10} {:>10}\n", "KV x q x dim", "codec",
             "tokens/s", "GB/s", "of reading", "vs fp16", "scores", "by head");
  const auto bytes = static_cast<int64_t>(o.gib * 0x1p30);
  for (const Shape& shape : shapes) {
    double fp16 = 0;
    for (const std::string& name : o.codecs) {
      const std::unique_ptr<BenchCache> made = make_cache(name, o, shape, memory);
      BenchCache& cache = *made;
      cache.step(clock, pool, Collect::kByHead);
      cache.step(clock, pool, Collect::kTogether);
      cache.step(clock, pool, Collect::kNothing);
      cache.check();
      double read = 1e9, plain = 1e9, together = 1e9, by_head = 1e9;
      for (int i = 0; i < o.repeat; ++i) {
        read = std::min(read, read_seconds(clock, memory.data(), bytes, pool));
        plain = std::min(plain, cache.step(clock, pool, Collect::kNothing));
        together = std::min(together, cache.step(clock, pool, Collect::kTogether));
        by_head = std::min(by_head, cache.step(clock, pool, Collect::kByHead));
      }
      const double rate = cache.bytes() / plain * 1e-9;
      const double tokens = static_cast<double>(cache.sequences()) / plain;
      if (name == "fp16") fp16 = tokens;
      fmt::print("{:<12} {:<12} {:>12.1f} {:>8.2f} {:>10.1f} % {:>10} {:>8.1f} % {:>8.1f} %\n",
                 shape.name(), name, tokens, rate,
                 100 * rate * read / static_cast<double>(bytes) * 1e9,
                 fp16 > 0 ? fmt::format("{:.2f}", tokens / fp16) : "", 100 * (together / plain - 1),
                 100 * (by_head / plain - 1));
      std::fflush(stdout);
    }
  }
}

void bench_prompt(const Options& o, const Clock& clock, ThreadPool& pool) {
  const double fma = fma_flops(clock, pool);
  const double product = product_flops(clock, pool, o.repeat);
  fmt::print(
      "\nfp32: {:.1f} GFLOP/s of multiply-adds in registers, {:.1f} in linear maps of 512 x "
      "2048 x 2048\n",
      fma * 1e-9, product * 1e-9);
  fmt::print("{:<12} {:>10} {:>14} {:>14}\n", "KV x q x dim", "GFLOP/s", "of registers",
             "of linear");
  for (const Shape& s : {Shape{8, 4, 128}, {4, 8, 64}, {3, 3, 64}, {2, 1, 128}}) {
    const int64_t n = o.prompt, width = s.kv_heads * s.group * s.dim;
    const auto keys = normals(n * s.kv_heads * s.dim, 4),
               values = normals(n * s.kv_heads * s.dim, 5);
    const auto q = normals(n * width, 6);
    std::vector<float> out(q.size());
    const int64_t rows = 256, chunks = (n + rows - 1) / rows;
    const int64_t scratch_bytes =
        (attention_scratch_bytes(rows, s.group, n, s.dim, s.dim, false) + 63) / 64 * 64;
    const Memory scratch(scratch_bytes * pool.size());
    double best = 1e9;
    for (int i = 0; i < o.repeat; ++i) {
      best = std::min(best, clock.seconds([&] {
        pool.parallel_for(s.kv_heads * chunks, [&](int64_t job, int thread) {
          // The longest jobs first.
          const int64_t head = job % s.kv_heads, chunk = chunks - 1 - job / s.kv_heads;
          KvHeadView kv;
          kv.raw_keys = keys.data() + head * s.dim;
          kv.raw_values = values.data() + head * s.dim;
          kv.raw_key_stride = kv.raw_value_stride = s.kv_heads * s.dim;
          AttentionTask t;
          t.q = q.data() + chunk * rows * width + head * s.group * s.dim;
          t.out = out.data() + (t.q - q.data());
          t.q_stride = t.out_stride = width;
          t.rows = std::min(rows, n - chunk * rows);
          t.group = s.group;
          t.key_dim = t.value_dim = s.dim;
          t.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.dim)));
          t.raw_visible = chunk * rows + 1;
          attention_run(kv, t, scratch.data() + thread * scratch_bytes);
        });
      }));
    }
    check_prompt(s.kv_heads, s.group, s.dim, n, q, keys, values, out);
    const double pairs = 0.5 * static_cast<double>(n) * static_cast<double>(n + 1);
    const double rate = pairs * static_cast<double>(4 * width) / best;
    fmt::print("{:<12} {:>10.1f} {:>12.1f} % {:>12.1f} %\n", s.name(), rate * 1e-9,
               100 * rate / fma, 100 * rate / product);
    std::fflush(stdout);
  }
}

void run(const Options& o) {
  std::vector<Shape> shapes = {{8, 4, 128}, {4, 8, 64}, {3, 3, 64}, {1, 8, 128}, {8, 1, 128}};
  if (!o.shape.empty()) shapes = {shape_from(o.shape)};
  for (const std::string& name : o.codecs) segment_rows(name, o);
  ThreadPool pool(o.threads);
  const Clock clock(o.cpu_time, pool.size());
  const auto bytes = static_cast<int64_t>(o.gib * 0x1p30);
  fmt::print("{}, {} threads, {} GiB of cache, sequences of {} entries, pages of {}\n",
             isa_name(active_isa()), pool.size(), o.gib, o.slots, o.page_rows);
  if (o.only != "prompt") {
    const Memory memory(bytes + (int64_t{64} << 20));
    double read = 1e9;
    for (int i = 0; i < o.repeat; ++i) {
      read = std::min(read, read_seconds(clock, memory.data(), bytes, pool));
    }
    fmt::print("reading: {:.2f} GB/s\n", static_cast<double>(bytes) / read * 1e-9);
    bench_decode(o, shapes, clock, memory, pool);
  }
  if (o.only != "decode") bench_prompt(o, clock, pool);
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  ashlar::Options options;
  CLI::App app("Attention over caches and prompts, timed; ASHLAR_ISA forces an instruction set");
  app.add_option("--gib", options.gib, "Size of each cache: more than the last-level cache");
  app.add_option("--slots", options.slots, "Cached entries of each sequence");
  app.add_option("--page-rows", options.page_rows, "Entries per page");
  app.add_option("--prompt", options.prompt, "Tokens of the prompt");
  app.add_option("--threads", options.threads, "0: every core");
  app.add_flag("--cpu-time", options.cpu_time,
               "Processor time per thread, not time on the wall: for machines that others use");
  app.add_option("--repeat", options.repeat, "Best of so many");
  app.add_option("--codecs", options.codecs,
                 "Default: fp16 bf16 q8 q4 q3 q2 zipcache; zipcache:100 in segments of 100 rows");
  app.add_option("--only", options.only, "decode or prompt")
      ->check(CLI::IsMember({"decode", "prompt"}));
  app.add_option("--shape", options.shape,
                 "Only this decode shape: KV heads x queries of each x dim, such as '8 x 4 x 128'");
  app.footer("Example: bench_attention --gib 2 --codecs fp16 q8 q4 --only decode");
  return ashlar::status_of([&] {
    ashlar::read_options(app, argc, argv);
    ashlar::run(options);
    return 0;
  });
}
