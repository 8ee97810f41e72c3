#include "kernels/hadamard.h"

#include <bit>

#include "core/base/error.h"
#include "kernels/dispatch.h"
#include "kernels/hadamard_construct.h"

namespace ashlar {
namespace {

enum class Family { kNone, kTrivial, kSequences, kPaley1, kPaley2, kKronecker };

struct Construction {
  Family family = Family::kNone;
  int64_t left = 0;  ///< kKronecker: order of the left factor
};

bool has_sequences(int64_t order) {
  for (const int64_t known : {92, 116, 156, 172, 188, 236}) {
    if (order == known) return true;
  }
  return false;
}

Construction construction(int64_t order) {
  if (order == 1 || order == 2) return {Family::kTrivial, 0};
  if (order < 4 || order % 4 != 0 || order > kLargestHadamardBase) return {};
  if (is_odd_prime_power(order - 1)) return {Family::kPaley1, 0};
  if (order % 8 == 4 && is_odd_prime_power(order / 2 - 1)) return {Family::kPaley2, 0};
  if (has_sequences(order)) return {Family::kSequences, 0};
  for (int64_t left = 2; left * left <= order; left += left == 2 ? 2 : 4) {
    if (order % left == 0 && construction(left).family != Family::kNone &&
        construction(order / left).family != Family::kNone) {
      return {Family::kKronecker, left};
    }
  }
  return {};
}

std::vector<int8_t> kronecker(const std::vector<int8_t>& a, int64_t a_order,
                              const std::vector<int8_t>& b, int64_t b_order) {
  const int64_t n = a_order * b_order;
  std::vector<int8_t> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      h[static_cast<size_t>(i * n + j)] =
          static_cast<int8_t>(a[static_cast<size_t>(i / b_order * a_order + j / b_order)] *
                              b[static_cast<size_t>(i % b_order * b_order + j % b_order)]);
    }
  }
  return h;
}

/// The smallest base such that n = base·2^m can be built; 0 if there is none.
int64_t smallest_base(int64_t n) {
  if (n < 1) return 0;
  const int64_t odd = n >> std::countr_zero(static_cast<uint64_t>(n));
  if (odd == 1) return 1;
  for (int64_t base = odd; base <= n && base <= kLargestHadamardBase; base *= 2) {
    if (hadamard_base_supported(base)) return base;
  }
  return 0;
}

}  // namespace

bool hadamard_base_supported(int64_t order) { return construction(order).family != Family::kNone; }

std::vector<int8_t> hadamard_base_matrix(int64_t order) {
  const Construction how = construction(order);
  switch (how.family) {
    case Family::kNone:
      break;
    case Family::kTrivial:
      return order == 1 ? std::vector<int8_t>{1} : std::vector<int8_t>{1, 1, 1, -1};
    case Family::kSequences:
      return hadamard_sequences(order);
    case Family::kPaley1:
      return hadamard_paley1(order - 1);
    case Family::kPaley2:
      return hadamard_paley2(order / 2 - 1);
    case Family::kKronecker:
      return kronecker(hadamard_base_matrix(how.left), how.left,
                       hadamard_base_matrix(order / how.left), order / how.left);
  }
  fail(ErrorCode::kRequest, "no Hadamard matrix of order {} can be constructed", order);
}

bool hadamard_supported(int64_t n) { return smallest_base(n) != 0; }

HadamardPlan hadamard_plan(int64_t n) {
  const int64_t base = smallest_base(n);
  require(
      base != 0, ErrorCode::kRequest,
      "no Hadamard matrix of order {} can be constructed: want 2^m, or 4k·2^m with 4k of a known "
      "family (every multiple of 4 up to 256)",
      n);
  HadamardPlan plan;
  plan.n = n;
  plan.base = base;
  if (base > 1) plan.signs = hadamard_base_matrix(base);
  return plan;
}

std::vector<int8_t> hadamard_matrix(int64_t n) {
  const HadamardPlan plan = hadamard_plan(n);
  const int64_t rest = n / plan.base;
  std::vector<int8_t> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const size_t at = static_cast<size_t>(i / rest * plan.base + j / rest);
      const int8_t left = plan.base == 1 ? int8_t{1} : plan.signs[at];
      const bool odd = std::popcount(static_cast<uint64_t>((i % rest) & (j % rest))) % 2 != 0;
      h[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(odd ? -left : left);
    }
  }
  return h;
}

void hadamard_apply(const HadamardPlan& plan, float* x, float* scratch, bool transpose) {
  hadamard_apply_strided(plan, x, 1, scratch, transpose);
}

void hadamard_apply(const HadamardPlan& plan, double* x, double* scratch, bool transpose) {
  hadamard_apply_strided(plan, x, 1, scratch, transpose);
}

void hadamard_apply_strided(const HadamardPlan& plan, float* x, int64_t inner, float* scratch,
                            bool transpose) {
  active_kernels().hadamard_f32(plan, plan.signs.data(), x, inner, scratch, transpose);
}

void hadamard_apply_strided(const HadamardPlan& plan, double* x, int64_t inner, double* scratch,
                            bool transpose) {
  active_kernels().hadamard_f64(plan, plan.signs.data(), x, inner, scratch, transpose);
}

}  // namespace ashlar
