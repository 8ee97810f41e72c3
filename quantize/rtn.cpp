#include "quantize/rtn.h"

#include <algorithm>
#include <cmath>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

struct Storage {
  std::vector<std::byte> codes;
  std::vector<uint16_t> scale;
};

int code_for(double x, double scale, int low, int high) {
  if (scale == 0) return 0;
  return static_cast<int>(
      std::clamp(std::nearbyint(x / scale), static_cast<double>(low), static_cast<double>(high)));
}

double squared_error(std::span<const double> x, double scale, int low, int high) {
  double total = 0;
  for (double v : x) {
    const double e = v - scale * code_for(v, scale, low, high);
    total += e * e;
  }
  return total;
}

uint16_t choose_scale(std::span<const double> x, int bits, ClipKind clip) {
  const int high = (1 << (bits - 1)) - 1, low = -high - 1;
  double largest = 0;
  for (double v : x) largest = std::max(largest, std::abs(v));
  const auto stored = [](double s) { return float_to_half(static_cast<float>(s)); };
  uint16_t best = stored(largest / high);
  if (clip == ClipKind::kNone || largest == 0) return best;
  double least = squared_error(x, half_to_float(best), low, high);
  // A negative scale gives the extra level −2^(b−1) to the positive side.
  for (int step = 0; step <= 40; ++step) {
    const double range = largest * (1.0 - 0.02 * step);
    for (double sign : {1.0, -1.0}) {
      const uint16_t candidate = stored(sign * range / high);
      const double error = squared_error(x, half_to_float(candidate), low, high);
      if (error < least) {
        least = error;
        best = candidate;
      }
    }
  }
  return best;
}

}  // namespace

WeightTensor quantize_rtn(const std::string& name, std::span<const double> values, int64_t out,
                          int64_t in, const WeightRecipe& recipe) {
  ASHLAR_CHECK_EQ(static_cast<int64_t>(values.size()), out * in);
  const int bits = recipe.bits, high = (1 << (bits - 1)) - 1, low = -high - 1;
  const int64_t group = recipe.group == 0 ? in : std::min(recipe.group, in);
  const int64_t groups = ceil_div(in, group), row_bytes = quant_row_bytes(bits, in);
  auto storage = std::make_shared<Storage>();
  storage->codes.resize(static_cast<size_t>(out * row_bytes));
  storage->scale.resize(static_cast<size_t>(out * groups));
  for (int64_t n = 0; n < out; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * group, end = std::min(in, begin + group);
      const auto x =
          values.subspan(static_cast<size_t>(n * in + begin), static_cast<size_t>(end - begin));
      for (double v : x) {
        require(std::isfinite(v), ErrorCode::kData, "tensor '{}': row {} holds {}", name, n, v);
      }
      const uint16_t stored = choose_scale(x, bits, recipe.clip);
      const double scale = half_to_float(stored);
      require(std::isfinite(scale), ErrorCode::kData,
              "tensor '{}': row {} is too large for an fp16 scale", name, n);
      storage->scale[static_cast<size_t>(n * groups + g)] = stored;
      for (int64_t k = begin; k < end; ++k) {
        const int code = code_for(x[static_cast<size_t>(k - begin)], scale, low, high);
        auto& byte = storage->codes[static_cast<size_t>(n * row_bytes + (bits == 8 ? k : k / 2))];
        if (bits == 8) {
          byte = static_cast<std::byte>(code);
        } else {
          byte |= static_cast<std::byte>((code & 15) << (k % 2 == 0 ? 0 : 4));
        }
      }
    }
  }
  QuantTensor q;
  q.bits = bits;
  q.group = group;
  q.codes = storage->codes;
  q.scale = std::as_bytes(std::span(storage->scale));
  return {name, {out, in}, q, storage};
}

}  // namespace ashlar
