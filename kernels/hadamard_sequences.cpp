#include <array>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "kernels/hadamard_construct.h"

// Hadamard matrices from four circulant matrices A, B, C, D with AAᵀ+BBᵀ+CCᵀ+DDᵀ = 4nI: Williamson
// (Duke Math. J. 11, 1944), Goethals and Seidel (J. Austral. Math. Soc. 11, 1970); 188 from
// Turyn-type and 236 from Turyn sequences (Turyn, JCT A 16, 1974; Kharaghani and Tayfeh-Rezaie 2005
// describe the steps). Symmetric circulants make the Goethals–Seidel array a Williamson matrix up
// to row order, so one array serves all.
namespace ashlar {
namespace {

using Row = std::vector<int>;
using Rows = std::array<Row, 4>;

/// Rows over Z_n that are constant on the orbits of a multiplier group. Orbits are numbered by
/// smallest element; orbit 0 = {0} is +, bit i of a code makes orbit i + 1 minus.
struct OrbitCodes {
  int64_t order;
  int n;
  std::vector<int> group;
  std::array<uint32_t, 4> codes;
};

const std::vector<OrbitCodes>& orbit_codes() {
  static const std::vector<OrbitCodes> table = {
      {52, 13, {1, 5, 8, 12}, {0x5, 0x5, 0x1, 0x6}},
      {92, 23, {1, 22}, {0x390, 0x60d, 0x531, 0x753}},
      {100, 25, {1, 24}, {0x86c, 0xb6, 0x6a8, 0x18d}},
      {116, 29, {1, 28}, {0x182d, 0x712, 0x1bca, 0x3b0a}},
      {156, 39, {1, 14, 16, 22, 29, 35}, {0xe, 0xf4, 0xf8, 0x1bc}},
      {172, 43, {1, 4, 11, 16, 21, 35, 41}, {0x1b, 0x34, 0x15, 0x13}},
      {244, 61, {1, 9, 20, 34, 58}, {0x2d6, 0x1f5, 0x7c3, 0xbd1}},
  };
  return table;
}

Rows rows_from_orbits(const OrbitCodes& entry) {
  Row orbit(static_cast<size_t>(entry.n), -1);
  int orbits = 0;
  for (int a = 0; a < entry.n; ++a) {
    if (orbit[static_cast<size_t>(a)] >= 0) continue;
    for (const int g : entry.group) orbit[static_cast<size_t>(a * g % entry.n)] = orbits;
    ++orbits;
  }
  Rows rows;
  for (size_t r = 0; r < 4; ++r) {
    rows[r].assign(static_cast<size_t>(entry.n), 1);
    for (size_t a = 0; a < rows[r].size(); ++a) {
      if (orbit[a] > 0 && (entry.codes[r] >> (orbit[a] - 1) & 1u) != 0) rows[r][a] = -1;
    }
  }
  return rows;
}

Row signs(std::string_view text) {
  Row row;
  for (const char c : text) row.push_back(c == '+' ? 1 : -1);
  return row;
}

/// Sums of four T-sequences (disjoint supports that cover every place) with the signs of a
/// Goethals–Seidel input.
Rows rows_from_t_sequences(const Rows& t) {
  constexpr int kSigns[4][4] = {{1, 1, 1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}, {-1, 1, -1, 1}};
  Rows rows;
  for (size_t r = 0; r < 4; ++r) {
    rows[r].assign(t[0].size(), 0);
    for (size_t i = 0; i < t[0].size(); ++i) {
      for (size_t s = 0; s < 4; ++s) rows[r][i] += kSigns[r][s] * t[s][i];
    }
  }
  return rows;
}

/// TT(16), lengths 16, 16, 16, 15, to T-sequences of length 47: A = Z;W, B = Z;−W, C = X, D = Y,
/// T = (A+B)/2, (A−B)/2 padded right, (C+D)/2, (C−D)/2 padded left.
Rows rows_188() {
  const Row x = signs("++--+++-++-+---+"), y = signs("+----+---+++++-+");
  const Row z = signs("++--+-+++++-+++-"), w = signs("+-----++-+-+--+");
  const size_t ab = z.size() + w.size(), n = ab + x.size();
  Rows t;
  t.fill(Row(n, 0));
  for (size_t i = 0; i < z.size(); ++i) t[0][i] = z[i];
  for (size_t i = 0; i < w.size(); ++i) t[1][z.size() + i] = w[i];
  for (size_t i = 0; i < x.size(); ++i) {
    t[2][ab + i] = (x[i] + y[i]) / 2;
    t[3][ab + i] = (x[i] - y[i]) / 2;
  }
  return rows_from_t_sequences(t);
}

/// Turyn sequences of lengths 16, 16, 14, 14 here named X, U (l + 1 = 16) and Y, V (l − 1 = 14), to
/// T-sequences of length 4·15 − 1 = 59: T1 = 1;0…, T2 = 0; X interleaved with Y; 0…,
/// T3 = 0_{2l}; U interleaved with 0, T4 = 0_{2l}; 0 interleaved with V.
Rows rows_236() {
  const Row x = signs("++-+++-+-+++-++"), u = signs("+++-++---++-++-");
  const Row y = signs("++++--+-++----"), v = signs("+----+-+-++++-");
  const size_t l = x.size(), n = 4 * l - 1;
  Rows t;
  t.fill(Row(n, 0));
  t[0][0] = 1;
  for (size_t i = 0; i < l; ++i) {
    t[1][1 + 2 * i] = x[i];
    t[2][2 * l + 2 * i] = u[i];
  }
  for (size_t i = 0; i < y.size(); ++i) {
    t[1][2 + 2 * i] = y[i];
    t[3][2 * l + 1 + 2 * i] = v[i];
  }
  return rows_from_t_sequences(t);
}

/// [[A, BR, CR, DR], [−BR, A, DᵀR, −CᵀR], [−CR, −DᵀR, A, BᵀR], [−DR, CᵀR, −BᵀR, A]] for circulants
/// with first rows A…D and R the back-identity.
std::vector<int8_t> goethals_seidel(const Rows& rows) {
  struct Block {
    size_t row;
    int sign;
    bool transpose;
  };
  constexpr Block kBlocks[4][4] = {{{0, 1, false}, {1, 1, false}, {2, 1, false}, {3, 1, false}},
                                   {{1, -1, false}, {0, 1, false}, {3, 1, true}, {2, -1, true}},
                                   {{2, -1, false}, {3, -1, true}, {0, 1, false}, {1, 1, true}},
                                   {{3, -1, false}, {2, 1, true}, {1, -1, true}, {0, 1, false}}};
  const int64_t m = static_cast<int64_t>(rows[0].size()), n = 4 * m;
  std::vector<int8_t> h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const Block& block = kBlocks[i / m][j / m];
      const int64_t r = i % m;
      // A circulant is M[r][c] = row[c − r]; times R reverses its columns.
      const int64_t c = block.row == 0 ? j % m : m - 1 - j % m;
      const int64_t shift = block.transpose ? r - c : c - r;
      const int value = rows[block.row][static_cast<size_t>((shift + m) % m)];
      h[static_cast<size_t>(i * n + j)] = static_cast<int8_t>(block.sign * value);
    }
  }
  return h;
}

}  // namespace

std::vector<int8_t> hadamard_sequences(int64_t order) {
  if (order == 188) return goethals_seidel(rows_188());
  if (order == 236) return goethals_seidel(rows_236());
  for (const OrbitCodes& entry : orbit_codes()) {
    if (entry.order == order) return goethals_seidel(rows_from_orbits(entry));
  }
  return {};
}

}  // namespace ashlar
