#include "models/spec/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ashlar {
namespace {

double llama3(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(s.original_context);
  if (wavelength > original / s.low_freq_factor) return frequency / s.factor;
  if (wavelength < original / s.high_freq_factor) return frequency;
  const double keep =
      (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - keep) * frequency / s.factor + keep * frequency;
}

// Dimension whose wave turns `rotations` times within the original context.
double yarn_dimension(double rotations, const RopeSpec& rope) {
  const auto original = static_cast<double>(rope.scaling.original_context);
  return static_cast<double>(rope.dim) * std::log(original / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

void yarn(RopeFrequencies& out, const RopeSpec& rope) {
  const RopeScaling& s = rope.scaling;
  const double low = std::max(std::floor(yarn_dimension(s.beta_fast, rope)), 0.0);
  double high =
      std::min(std::ceil(yarn_dimension(s.beta_slow, rope)), static_cast<double>(rope.dim - 1));
  if (high == low) high += 0.001;
  for (size_t i = 0; i < out.frequency.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    out.frequency[i] *= stretched / s.factor + (1 - stretched);
  }
  out.magnitude = 0.1 * std::log(s.factor) + 1;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeSpec& rope) {
  RopeFrequencies out;
  for (int64_t i = 0; i < rope.dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope.dim);
    out.frequency.push_back(std::pow(rope.theta, exponent));
  }
  switch (rope.scaling.kind) {
    case RopeScalingKind::kNone:
      break;
    case RopeScalingKind::kLinear:
      for (double& f : out.frequency) f /= rope.scaling.factor;
      break;
    case RopeScalingKind::kLlama3:
      for (double& f : out.frequency) f = llama3(f, rope.scaling);
      break;
    case RopeScalingKind::kYarn:
      yarn(out, rope);
      break;
  }
  return out;
}

}  // namespace ashlar
