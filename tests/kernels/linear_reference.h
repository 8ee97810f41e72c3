#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/rng.h"
#include "kernels/linear.h"
#include "tests/kernels/kernel_support.h"

// A linear map with random weights, kept both as the bytes a file would hold and as doubles.
namespace ashlar::test {

struct LinearCase {
  LinearShape shape;
  std::vector<std::byte> data;
  std::vector<uint16_t> scale, min;
  std::vector<float> wide_scale, wide_min;  ///< instead, with wide_parameters
  std::vector<double> weight;  ///< [out, in], the exact value of what data, scale and min say
  std::vector<float> bias;

  LinearSource source() const {
    const auto bytes = [](const auto& v) {
      return v.empty() ? nullptr : reinterpret_cast<const std::byte*>(v.data());
    };
    return shape.wide_parameters ? LinearSource{data.data(), bytes(wide_scale), bytes(wide_min)}
                                 : LinearSource{data.data(), bytes(scale), bytes(min)};
  }
  float scale_of(size_t g) const {
    return shape.wide_parameters ? wide_scale[g] : half_to_float(scale[g]);
  }
  float min_of(size_t g) const {
    if (!shape.has_min) return 0;
    return shape.wide_parameters ? wide_min[g] : half_to_float(min[g]);
  }
  int64_t groups() const {
    return shape.group > 0 ? (shape.in + shape.group - 1) / shape.group : 0;
  }
};

inline std::string describe(const LinearShape& s) {
  static const char* const kNames[] = {"f32", "f16", "bf16", "q8", "q4"};
  return fmt::format("{}×{} {} group {}{}{}{}", s.out, s.in, kNames[static_cast<int>(s.weight)],
                     s.group, s.has_min ? " min" : "", s.wide_parameters ? " wide" : "",
                     s.activation == ActivationKind::kInt8 ? " int8" : "");
}

inline void fill_floats(LinearCase& c, const Philox& rng) {
  const bool wide = c.shape.weight == WeightKind::kF32;
  c.data.resize(c.weight.size() * (wide ? 4 : 2));
  for (size_t i = 0; i < c.weight.size(); ++i) {
    const float w = static_cast<float>(rng.normal(i));
    if (wide) {
      c.weight[i] = w;
      std::memcpy(&c.data[4 * i], &w, 4);
      continue;
    }
    const bool half = c.shape.weight == WeightKind::kF16;
    const uint16_t bits = half ? float_to_half(w) : float_to_bfloat(w);
    c.weight[i] = half ? half_to_float(bits) : bfloat_to_float(bits);
    std::memcpy(&c.data[2 * i], &bits, 2);
  }
}

inline void fill_codes(LinearCase& c, const Philox& rng) {
  const LinearShape& s = c.shape;
  const int64_t groups = c.groups();
  const bool nibbles = s.weight == WeightKind::kQ4;
  const int64_t row_bytes = nibbles ? (s.in + 1) / 2 : s.in;
  c.data.assign(static_cast<size_t>(s.out * row_bytes), std::byte{0});
  for (int64_t i = 0; i < s.out * groups; ++i) {
    const uint64_t at = static_cast<uint64_t>(i) + (1u << 30);
    const auto scale = static_cast<float>(0.01 + 0.02 * rng.uniform(at));
    const auto min = static_cast<float>(rng.normal(at + (1u << 30)));
    if (s.wide_parameters) {
      c.wide_scale.push_back(scale);
      if (s.has_min) c.wide_min.push_back(min);
    } else {
      c.scale.push_back(float_to_half(scale));
      if (s.has_min) c.min.push_back(float_to_half(min));
    }
  }
  const int levels = nibbles ? 16 : 256;
  for (int64_t o = 0; o < s.out; ++o) {
    for (int64_t k = 0; k < s.in; ++k) {
      const size_t i = static_cast<size_t>(o * s.in + k);
      const int raw = static_cast<int>(rng.below(i, static_cast<uint64_t>(levels)));
      const int code = s.has_min || raw < levels / 2 ? raw : raw - levels;
      const size_t at = static_cast<size_t>(o * row_bytes + (nibbles ? k / 2 : k));
      c.data[at] |= static_cast<std::byte>(nibbles ? raw << (k % 2 * 4) : raw);
      const size_t g = static_cast<size_t>(o * groups + k / s.group);
      c.weight[i] = static_cast<double>(c.scale_of(g)) * code + c.min_of(g);
    }
  }
}

inline LinearCase make_linear(const LinearShape& shape, uint64_t seed = 5) {
  LinearCase c;
  c.shape = shape;
  c.weight.resize(static_cast<size_t>(shape.out * shape.in));
  const Philox rng(seed);
  if (shape.group == 0) {
    fill_floats(c, rng);
  } else {
    fill_codes(c, rng);
  }
  c.bias = normals(shape.out, seed + 1);
  return c;
}

/// x as kInt8 rounds it: per group scale = max|x|/127, codes to nearest even, all in fp32.
inline std::vector<double> rounded_activations(const std::vector<float>& x, int64_t tokens,
                                               const LinearShape& s) {
  std::vector<double> out(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t start = 0; start < s.in; start += s.group) {
      const int64_t end = std::min(s.in, start + s.group);
      float top = 0;
      for (int64_t k = start; k < end; ++k) {
        top = std::max(top, std::abs(x[static_cast<size_t>(t * s.in + k)]));
      }
      const float scale = top / 127.0f, inverse = top > 0 ? 127.0f / top : 0.0f;
      for (int64_t k = start; k < end; ++k) {
        const size_t i = static_cast<size_t>(t * s.in + k);
        out[i] = static_cast<double>(scale) * std::nearbyint(x[i] * inverse);
      }
    }
  }
  return out;
}

struct LinearReference {
  std::vector<double> y;
  double norm = 0;   ///< largest Σ|x·w| with |w| counted as |scale·code| + |min|
  double terms = 0;  ///< longest chain of roundings of one output
};

inline LinearReference reference_linear(const LinearCase& c, const std::vector<float>& x,
                                        int64_t tokens) {
  const LinearShape& s = c.shape;
  LinearReference r;
  r.y.resize(static_cast<size_t>(tokens * s.out));
  std::vector<double> a(x.begin(), x.end());
  if (s.activation == ActivationKind::kInt8) a = rounded_activations(x, tokens, s);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t o = 0; o < s.out; ++o) {
      double sum = c.bias[static_cast<size_t>(o)], norm = std::abs(sum);
      for (int64_t k = 0; k < s.in; ++k) {
        const double v = a[static_cast<size_t>(t * s.in + k)];
        const double w = c.weight[static_cast<size_t>(o * s.in + k)];
        sum += v * w;
        double magnitude = std::abs(w);
        if (s.has_min) {
          const size_t g = static_cast<size_t>(o * c.groups() + k / s.group);
          const double min = c.min_of(g);
          magnitude = std::abs(w - min) + std::abs(min);
        }
        norm += std::abs(v) * magnitude;
      }
      r.y[static_cast<size_t>(t * s.out + o)] = sum;
      r.norm = std::max(r.norm, norm);
    }
  }
  const double segments = static_cast<double>(std::max<int64_t>(c.groups(), 1) + s.in / 256);
  r.terms = static_cast<double>(std::min<int64_t>(s.in, 256)) + 2 * segments + 2;
  return r;
}

}  // namespace ashlar::test
