#include <vector>

#include "core/base/error.h"
#include "kernels/hadamard_construct.h"

// Paley, "On orthogonal matrices", J. Math. Phys. 12 (1933), over GF(q), q = p^k.
namespace ashlar {
namespace {

struct PrimePower {
  int64_t p = 0;
  int k = 0;
};

/// {0, 0} if q is no power of an odd prime.
PrimePower factor(int64_t q) {
  if (q < 3 || q % 2 == 0) return {};
  int64_t p = 3;
  while (p * p <= q && q % p != 0) p += 2;
  if (q % p != 0) p = q;
  int k = 0;
  for (; q % p == 0; q /= p) ++k;
  return q == 1 ? PrimePower{p, k} : PrimePower{};
}

/// GF(p^k): an element is Σ c_i·p^i for the polynomial Σ c_i·x^i.
class Field {
 public:
  explicit Field(int64_t q) : q_(q) {
    const PrimePower power = factor(q);
    ASHLAR_CHECK_NE(power.k, 0);
    p_ = power.p;
    k_ = power.k;
    // x is a generator modulo a primitive polynomial x^k + f; its powers alternate between
    // non-squares and squares. Such a polynomial exists for every q.
    int64_t f = 1;
    while (!fill_characters(f)) {
      ++f;
      ASHLAR_CHECK_LT(f, q);
    }
  }

  /// 0 for 0, 1 for squares, −1 for the others.
  int8_t character(int64_t a) const { return characters_[static_cast<size_t>(a)]; }

  int64_t subtract(int64_t a, int64_t b) const {
    int64_t result = 0;
    for (int64_t place = 1; place < q_; place *= p_) {
      result += (a / place % p_ - b / place % p_ + p_) % p_ * place;
    }
    return result;
  }

 private:
  /// a·x modulo x^k + f.
  int64_t times_x(int64_t a, int64_t f) const {
    const int64_t high = q_ / p_;
    const int64_t carry = a / high;  // the coefficient that overflows into x^k = −f
    int64_t result = a % high * p_;
    int64_t place = 1;
    for (int i = 0; i < k_; ++i, place *= p_) {
      const int64_t digit = (result / place % p_ + (p_ - f / place % p_) * carry) % p_;
      result += (digit - result / place % p_) * place;
    }
    return result;
  }

  /// False unless x has order q − 1 modulo x^k + f.
  bool fill_characters(int64_t f) {
    characters_.assign(static_cast<size_t>(q_), 0);
    int64_t power = 1;
    for (int64_t i = 0; i < q_ - 1; ++i) {
      if (power == 0 || characters_[static_cast<size_t>(power)] != 0) return false;
      characters_[static_cast<size_t>(power)] = i % 2 == 0 ? 1 : -1;
      power = times_x(power, f);
    }
    return true;
  }

  int64_t q_;
  int64_t p_ = 0;
  int k_ = 0;
  std::vector<int8_t> characters_;
};

}  // namespace

bool is_odd_prime_power(int64_t q) { return factor(q).k != 0; }

std::vector<int8_t> hadamard_paley1(int64_t q) {
  ASHLAR_CHECK(is_odd_prime_power(q) && q % 4 == 3);
  const Field field(q);
  const int64_t n = q + 1;
  // H = I + S with S = [[0, 1ᵀ], [−1, Q]], Q_ij = χ(i − j), skew because q ≡ 3 (mod 4).
  std::vector<int8_t> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int8_t value = 0;
      if (i == 0 || i == j) {
        value = 1;
      } else if (j == 0) {
        value = -1;
      } else {
        value = field.character(field.subtract(i - 1, j - 1));
      }
      h[static_cast<size_t>(i * n + j)] = value;
    }
  }
  return h;
}

std::vector<int8_t> hadamard_paley2(int64_t q) {
  ASHLAR_CHECK(is_odd_prime_power(q) && q % 4 == 1);
  const Field field(q);
  const int64_t m = q + 1, n = 2 * m;
  // C = [[0, 1ᵀ], [1, Q]] is a symmetric conference matrix; 0 becomes [[1, −1], [−1, −1]] and ±1
  // becomes ±[[1, 1], [1, −1]].
  std::vector<int8_t> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      int8_t c = 1;
      if (i == j) {
        c = 0;
      } else if (i > 0 && j > 0) {
        c = field.character(field.subtract(i - 1, j - 1));
      }
      int8_t* top = &h[static_cast<size_t>(2 * i * n + 2 * j)];
      int8_t* bottom = top + n;
      top[0] = c == 0 ? int8_t{1} : c;
      top[1] = c == 0 ? int8_t{-1} : c;
      bottom[0] = top[1];
      bottom[1] = static_cast<int8_t>(-top[0]);
    }
  }
  return h;
}

}  // namespace ashlar
