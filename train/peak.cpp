#include "train/peak.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kBudget = 0.3;     // s
constexpr double kShortest = 0.02;  // s, of repetitions at one size
constexpr int64_t kFirst = 128, kLast = 2048, kLastOnGpu = 8192;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

MatmulPeak measure_matmul_peak(bool bf16, bool cuda) {
  const at::NoGradGuard no_grad;
  const auto begin = Clock::now();
  MatmulPeak best;
  for (int64_t n = kFirst; n <= (cuda ? kLastOnGpu : kLast); n *= 2) {
    const double flops =
        2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    // The warm-up and one repetition, at the rate so far, must fit into what is left.
    const bool measured = best.flops_per_second > 0;
    if (measured && seconds_since(begin) + 2 * flops / best.flops_per_second > kBudget) break;
    // Zeros would be as fast here, but not on machines that clock by power.
    const at::Tensor a =
        at::rand({n, n}).to(bf16 ? at::kBFloat16 : at::kFloat).to(cuda ? at::kCUDA : at::kCPU);
    at::Tensor out = at::mm(a, a);  // first use of a size prepares code and buffers
    const auto finish = [&] {
      if (cuda) static_cast<void>(out[0][0].item<float>());  // waits for the GPU
    };
    finish();
    const auto start = Clock::now();
    double fastest = 0, last = 0;
    do {
      const auto one = Clock::now();
      at::mm_out(out, a, a);
      finish();
      last = seconds_since(one);
      fastest = std::max(fastest, flops / last);
    } while (seconds_since(start) < kShortest && seconds_since(begin) + last < kBudget);
    if (fastest > best.flops_per_second) {
      best.flops_per_second = fastest;
      best.size = n;
    }
  }
  best.description = fmt::format(
      "{} products of {}×{} on {}: {:.3g} FLOP/s", bf16 ? "bf16" : "fp32", best.size, best.size,
      cuda ? "a GPU" : fmt::format("{} threads", at::get_num_threads()), best.flops_per_second);
  return best;
}

}  // namespace ashlar
