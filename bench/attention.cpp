// Attention over caches larger than any cache of the processor, as shares of the bandwidth at which
// the same threads read memory, and over a prompt, as a share of the fp32 product's throughput.
// Each configuration is checked against double first. Other programs may use the machine: what is
// compared is measured in turn within one run, and the best of `--repeat` counts.
#include "kernels/attention.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/attention_reference.h"
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
  std::vector<std::string> codecs = {"fp16", "bf16", "q8", "q4", "q3", "q2"};
  std::string only, shape;
};

struct Shape {
  int64_t kv_heads, group, dim;
  std::string name() const { return fmt::format("{} x {} x {}", kv_heads, group, dim); }
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

/// Memory of huge pages where the system gives them, touched.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(static_cast<size_t>(bytes) + (size_t{2} << 20)) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(p != MAP_FAILED, ErrorCode::kResource, "no memory for {} bytes", bytes_);
    madvise(p, bytes_, MADV_HUGEPAGE);
    std::memset(p, 0, bytes_);
    base_ = static_cast<std::byte*>(p);
  }
  ~Memory() { munmap(base_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::byte* data() const { return base_; }

 private:
  size_t bytes_;
  std::byte* base_;
};

std::vector<float> normals(int64_t n, uint64_t seed) {
  const Philox rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  return x;
}

/// Seconds to read `bytes` once, by chunks of 1 MiB.
double read_seconds(const Clock& clock, const std::byte* data, int64_t bytes, ThreadPool& pool) {
  const int64_t chunk = int64_t{1} << 20, chunks = bytes / chunk;
  std::vector<uint64_t> sums(static_cast<size_t>(chunks));
  const double time = clock.seconds([&] {
    pool.parallel_for(chunks, [&](int64_t i, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(data + i * chunk);
      uint64_t s[8] = {};
      for (int64_t j = 0; j < chunk / 8; j += 8) {
        for (int l = 0; l < 8; ++l) s[l] += words[j + l];
      }
      for (const uint64_t v : s) sums[static_cast<size_t>(i)] += v;
    });
  });
  static volatile uint64_t sink;
  for (const uint64_t v : sums) sink = sink + v;
  return time * static_cast<double>(bytes) / static_cast<double>(chunks * chunk);
}

/// Sequences of one length in pages of one codec, `gib` of them in all, and a decode step over all.
class Cache {
 public:
  Cache(const Options& o, const Shape& s, CodecKind codec, const Memory& memory)
      : shape_(s),
        page_{codec, codec, s.kv_heads, s.dim, s.dim, false, o.page_rows},
        slots_(o.slots / o.page_rows * o.page_rows) {
    pages_ = slots_ / o.page_rows;
    const int64_t bytes = kv_page_bytes(page_);
    const auto wanted = static_cast<int64_t>(o.gib * 0x1p30);
    sequences_ = std::max<int64_t>(1, wanted / (pages_ * bytes));
    // Sixteen pages of numbers, again and again.
    const int64_t width = s.kv_heads * s.dim;
    const auto keys = normals(16 * o.page_rows * width, 1);
    const auto values = normals(16 * o.page_rows * width, 2);
    for (int64_t p = 0; p < sequences_ * pages_; ++p) {
      std::byte* at = memory.data() + p * bytes;
      table_.push_back(at);
      if (p >= 16) {
        std::memcpy(at, table_[static_cast<size_t>(p % 16)], static_cast<size_t>(bytes));
        continue;
      }
      const int64_t first = p * o.page_rows * width;
      kv_page_encode(page_, at, 0, o.page_rows, keys.data() + first, width, values.data() + first,
                     width);
    }
    q_ = normals(s.kv_heads * s.group * s.dim, 3);
    out_.resize(static_cast<size_t>(sequences_) * q_.size());
    scores_.resize(static_cast<size_t>(sequences_ * s.kv_heads * (slots_ + 1)));
  }

  int64_t sequences() const { return sequences_; }
  double bytes() const { return static_cast<double>(sequences_ * pages_ * kv_page_bytes(page_)); }

  KvHeadView view(int64_t sequence, int64_t head) const {
    KvHeadView kv;
    kv.run_count = 1;
    kv.runs[0] = kv_page_run(page_, head);
    kv.runs[0].pages = table_.data() + sequence * pages_;
    kv.runs[0].rows = slots_;
    kv.raw_keys = kv.raw_values = q_.data();
    kv.raw_key_stride = kv.raw_value_stride = shape_.dim;
    return kv;
  }
  AttentionTask task(int64_t sequence, int64_t head, bool collect) {
    AttentionTask t;
    t.q = q_.data() + head * shape_.group * shape_.dim;
    t.q_stride = t.out_stride = shape_.group * shape_.dim;
    t.rows = t.raw_visible = 1;
    t.group = shape_.group;
    t.key_dim = t.value_dim = shape_.dim;
    t.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.dim)));
    t.out = out_.data() + sequence * static_cast<int64_t>(q_.size()) + (t.q - q_.data());
    if (collect) {
      t.scores = scores_.data() + (sequence * shape_.kv_heads + head) * (slots_ + 1);
    }
    return t;
  }

  double step(const Clock& clock, ThreadPool& pool, bool collect) {
    const int64_t scratch_bytes =
        (attention_scratch_bytes(1, shape_.group, slots_ + 1, shape_.dim, shape_.dim, collect) +
         63) /
        64 * 64;
    if (scratch_ == nullptr || scratch_size_ < scratch_bytes) {
      scratch_ = std::make_unique<Memory>(scratch_bytes * pool.size());
      scratch_size_ = scratch_bytes;
    }
    return clock.seconds([&] {
      pool.parallel_for(sequences_ * shape_.kv_heads, [&](int64_t i, int thread) {
        const int64_t sequence = i / shape_.kv_heads, head = i % shape_.kv_heads;
        attention_run(view(sequence, head), task(sequence, head, collect),
                      scratch_->data() + thread * scratch_size_);
      });
    });
  }

  void check() {
    for (const int64_t head : {int64_t{0}, shape_.kv_heads - 1}) {
      const AttentionTask t = task(sequences_ - 1, head, false);
      check_decode(page_, head, view(sequences_ - 1, head), t);
    }
  }

 private:
  Shape shape_;
  KvPageShape page_;
  int64_t slots_, pages_ = 0, sequences_ = 0;
  std::vector<const std::byte*> table_;
  std::vector<float> q_, out_, scores_;
  std::unique_ptr<Memory> scratch_;
  int64_t scratch_size_ = 0;
};

void bench_decode(const Options& o, const Clock& clock, const Memory& memory, ThreadPool& pool) {
  fmt::print("\n{:<12} {:<6} {:>12} {:>8} {:>12} {:>10} {:>10}\n", "KV x q x dim", "codec",
             "tokens/s", "GB/s", "of reading", "vs fp16", "scores");
  const auto bytes = static_cast<int64_t>(o.gib * 0x1p30);
  std::vector<Shape> shapes = {{8, 4, 128}, {4, 8, 64}, {3, 3, 64}, {1, 8, 128}, {8, 1, 128}};
  if (!o.shape.empty()) shapes = {shape_from(o.shape)};
  for (const Shape& shape : shapes) {
    double fp16 = 0;
    for (const std::string& name : o.codecs) {
      const CodecKind codec = codec_from_name(name);
      Cache cache(o, shape, codec, memory);
      cache.step(clock, pool, true);
      cache.step(clock, pool, false);
      cache.check();
      double read = 1e9, plain = 1e9, scored = 1e9;
      for (int i = 0; i < o.repeat; ++i) {
        read = std::min(read, read_seconds(clock, memory.data(), bytes, pool));
        plain = std::min(plain, cache.step(clock, pool, false));
        scored = std::min(scored, cache.step(clock, pool, true));
      }
      const double rate = cache.bytes() / plain * 1e-9;
      const double tokens = static_cast<double>(cache.sequences()) / plain;
      if (codec == CodecKind::kF16) fp16 = tokens;
      fmt::print("{:<12} {:<6} {:>12.1f} {:>8.2f} {:>10.1f} % {:>10} {:>8.1f} %\n", shape.name(),
                 name, tokens, rate, 100 * rate * read / static_cast<double>(bytes) * 1e9,
                 fp16 > 0 ? fmt::format("{:.2f}", tokens / fp16) : "", 100 * (scored / plain - 1));
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
    bench_decode(o, clock, memory, pool);
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
  app.add_option("--codecs", options.codecs, "Default: fp16 bf16 q8 q4 q3 q2");
  app.add_option("--only", options.only, "decode or prompt")
      ->check(CLI::IsMember({"decode", "prompt"}));
  app.add_option("--shape", options.shape,
                 "Only this decode shape: KV heads x queries of each x dim, such as '8 x 4 x 128'");
  app.footer("Example: bench_attention --gib 2 --codecs fp16 q8 q4 --only decode");
  CLI11_PARSE(app, argc, argv);
  try {
    ashlar::run(options);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
