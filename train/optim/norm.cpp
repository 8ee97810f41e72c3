#include "train/optim/norm.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace ashlar {
namespace {

// Independent sums, so that additions do not wait for each other; then added pairwise.
constexpr int64_t kLanes = 16;
static_assert(kUnitBlock % kLanes == 0);

double squares_of(const float* values, int64_t n) {
  double lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const auto value = static_cast<double>(values[i + l]);
      lanes[l] += value * value;
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    const auto value = static_cast<double>(values[i]);
    lanes[i - whole] += value * value;
  }
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

double squares_of(const at::Tensor& flat) {
  if (!flat.is_cpu()) return flat.to(at::kDouble).square().sum().item<double>();
  const at::Tensor own = flat.detach().contiguous();
  return squares_of(own.data_ptr<float>(), own.numel());
}

}  // namespace

std::vector<double> block_squares(const at::Tensor& flat) {
  ASHLAR_CHECK(flat.dim() == 1 && flat.scalar_type() == at::kFloat);
  ASHLAR_CHECK_EQ(flat.numel() % kUnitBlock, 0);
  const int64_t blocks = flat.numel() / kUnitBlock;
  std::vector<double> out(static_cast<size_t>(blocks));
  if (blocks == 0) return out;
  if (!flat.is_cpu()) {
    const at::Tensor sums = flat.view({blocks, kUnitBlock})
                                .to(at::kDouble)
                                .square()
                                .sum(1)
                                .to(at::Device(at::kCPU))
                                .contiguous();
    std::copy_n(sums.data_ptr<double>(), blocks, out.begin());
    return out;
  }
  const at::Tensor own = flat.detach().contiguous();
  const float* values = own.data_ptr<float>();
  at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      out[static_cast<size_t>(b)] = squares_of(values + b * kUnitBlock, kUnitBlock);
    }
  });
  return out;
}

double norm_of(std::span<const double> squares) {
  double total = 0;
  for (const double value : squares) total += value;
  return std::sqrt(total);
}

ParameterSquares parameter_squares(std::span<const UnitSlice> units, size_t parameters) {
  ParameterSquares out{std::vector<double>(parameters), std::vector<double>(parameters)};
  for (const UnitSlice& unit : units) {
    for (const auto& piece : unit.layout->pieces(unit.range)) {
      out.values.at(piece.parameter) += squares_of(unit.values.narrow(0, piece.at, piece.count));
      out.gradients.at(piece.parameter) +=
          squares_of(unit.gradients.narrow(0, piece.at, piece.count));
    }
  }
  return out;
}

}  // namespace ashlar
