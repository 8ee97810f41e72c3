#pragma once

#include <cstdint>
#include <vector>

namespace ashlar {

/// A Hadamard transform of order n = base·2^m, H = H_base ⊗ H_{2^m}, HHᵀ = nI. `base` is 1 or the
/// order of one of the constructed matrices (every multiple of 4 up to 256, and Paley orders
/// beyond). Orders 1 and 2 are allowed.
struct HadamardPlan {
  int64_t n = 0;
  int64_t base = 1;
  std::vector<int8_t> signs;  ///< H_base row-major ±1; empty when base = 1
};

/// True if a plan of order n exists.
bool hadamard_supported(int64_t n);
/// Throws Error(kRequest) naming n when no construction is known.
HadamardPlan hadamard_plan(int64_t n);
/// The ±1 matrix of order n, row-major; for tests and fusion.
std::vector<int8_t> hadamard_matrix(int64_t n);

/// x ← x·H/√n for one row of n values viewed as [base, n/base] (row convention: y = x·H).
/// `scratch` holds n floats. Add order is fixed. `transpose` multiplies by Hᵀ (the inverse)
/// instead.
void hadamard_apply(const HadamardPlan& plan, float* x, float* scratch, bool transpose = false);
void hadamard_apply(const HadamardPlan& plan, double* x, double* scratch, bool transpose = false);

/// Same along the middle axis of x[n, inner]: for every column i < inner, x[:, i] ← (x[:, i])·H/√n.
/// Used across heads (H_heads ⊗ I) and across the L_B slots of a block. `scratch`: n·inner values.
void hadamard_apply_strided(const HadamardPlan& plan, float* x, int64_t inner, float* scratch,
                            bool transpose = false);
void hadamard_apply_strided(const HadamardPlan& plan, double* x, int64_t inner, double* scratch,
                            bool transpose = false);

}  // namespace ashlar
