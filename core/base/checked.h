#pragma once

#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "core/base/error.h"

namespace ashlar {

/// a·b without wrap-around; throws `Error(kData)` naming `what` on overflow. For sizes that come
/// from files.
inline int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) {
    fail(ErrorCode::kData, "{}: {} * {} overflows", what, a, b);
  }
  return result;
}

/// a+b without wrap-around; throws `Error(kData)` naming `what` on overflow.
inline int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) {
    fail(ErrorCode::kData, "{}: {} + {} overflows", what, a, b);
  }
  return result;
}

/// Product of the dimensions; each must be ≥ 0.
inline int64_t checked_numel(std::span<const int64_t> shape, const char* what) {
  int64_t n = 1;
  for (int64_t d : shape) {
    require(d >= 0, ErrorCode::kData, "{}: negative dimension {}", what, d);
    n = checked_mul(n, d, what);
  }
  return n;
}

/// Value-preserving integer conversion; throws `Error(kData)` when `value` does not fit.
template <typename To, typename From>
To checked_cast(From value, const char* what) {
  static_assert(std::is_integral_v<To> && std::is_integral_v<From>);
  require(std::in_range<To>(value), ErrorCode::kData, "{}: {} does not fit", what, value);
  return static_cast<To>(value);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace ashlar
