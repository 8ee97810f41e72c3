#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <vector>

#include "core/base/threads.h"
#include "kernels/attention.h"
#include "kernels/kv_zip.h"

// What bench/attention.cpp compares with.

namespace ashlar {

/// The time of `run`, on the wall or, where others keep the cores busy, of the processor per
/// thread.
class Clock {
 public:
  Clock(bool cpu, int threads) : cpu_(cpu), threads_(threads) {}
  double seconds(const std::function<void()>& run) const {
    const double begin = now();
    run();
    return now() - begin;
  }

 private:
  double now() const {
    timespec t{};
    clock_gettime(cpu_ ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    const double s = static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    return cpu_ ? s / threads_ : s;
  }
  bool cpu_;
  int threads_;
};

/// Every element of a decode task's `out` against double; the first raw row is the last slot.
/// Throws Error where one is off.
void check_decode(const KvPageShape& page, int64_t head, const KvHeadView& kv,
                  const AttentionTask& task);

/// The same over segments of ZipCache and a raw row.
void check_segments(const ZipShape& shape, const KvHeadView& kv, const AttentionTask& task);

/// Some rows and heads of a causal prompt's `out` against double. q and out: [n, kv_heads · group,
/// dim]; keys and values: [n, kv_heads, dim].
void check_prompt(int64_t kv_heads, int64_t group, int64_t dim, int64_t n,
                  const std::vector<float>& q, const std::vector<float>& keys,
                  const std::vector<float>& values, const std::vector<float>& out);

/// Multiply-adds per second, counted as two, that all threads do in registers alone.
double fma_flops(const Clock& clock, ThreadPool& pool);
/// The same in linear maps of fp32 weights, 512 tokens, 2048 by 2048.
double product_flops(const Clock& clock, ThreadPool& pool, int repeat);

}  // namespace ashlar
