#pragma once

#include <cstdint>
#include <vector>

namespace ashlar {

/// Largest order that is constructed as a dense ±1 matrix; larger transforms are Kronecker
/// products.
inline constexpr int64_t kLargestHadamardBase = 4096;

/// True if `hadamard_base_matrix(order)` has a construction for this order: 1, 2, and up to
/// kLargestHadamardBase Paley I and II over GF(p^k), the Williamson, Goethals–Seidel and Turyn
/// matrices of orders 92, 116, 156, 172, 188 and 236, and Kronecker products of these.
bool hadamard_base_supported(int64_t order);

/// The ±1 matrix of `order`, row-major. Throws Error(kRequest) naming the order if unsupported.
std::vector<int8_t> hadamard_base_matrix(int64_t order);

// The families one by one, for tests. Matrices are row-major ±1.

/// q = p^k for a prime p ≥ 3?
bool is_odd_prime_power(int64_t q);
/// Paley I: order q + 1 for a prime power q ≡ 3 (mod 4).
std::vector<int8_t> hadamard_paley1(int64_t q);
/// Paley II: order 2(q + 1) for a prime power q ≡ 1 (mod 4); symmetric.
std::vector<int8_t> hadamard_paley2(int64_t q);
/// Orders 52, 92, 100, 116 (Williamson), 156, 172, 244 (Goethals–Seidel from orbits), 188
/// (Turyn-type sequences) and 236 (Turyn sequences); empty for any other order.
std::vector<int8_t> hadamard_sequences(int64_t order);

}  // namespace ashlar
