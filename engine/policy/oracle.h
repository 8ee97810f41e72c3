#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/policy/policy.h"

// The ceiling that other methods are measured against: a policy that knows which rows later queries
// will attend to. A first pass over the text with a whole cache records it, a second one evicts.

namespace ashlar {

/// Attention probabilities of queries to come, per KV head of each group: at some moments of the
/// text the sums, per row, over all queries behind it. Takes 8 bytes per moment, head and row.
class FutureAttention {
 public:
  /// The queries behind the last ones added, up to the one at position `query`, give the row at
  /// position p probabilities[p] in all, summed over what is to count alike (query heads, readers).
  /// Queries of a head come in ascending order.
  void add(int64_t group, int64_t head, int64_t query, std::span<const float> probabilities);
  /// All queries are in: what comes after each of them is summed up. Once, before `after`.
  void seal();
  /// What the recorded queries behind position `newest` give each row in all, by position; rows
  /// beyond the end get nothing. Queries added together count as long as one of them is to come.
  std::span<const double> after(int64_t group, int64_t head, int64_t newest) const;
  /// Of what is recorded.
  int64_t bytes() const;

 private:
  struct Head {
    std::vector<int64_t> queries;           // the last ones of what was added together
    std::vector<std::vector<double>> sums;  // sealed: of these queries and all behind them
  };
  std::map<std::pair<int64_t, int64_t>, Head> heads_;
  bool sealed_ = false;
};

/// Of no query: for asking whether an oracle can be, before it knows anything.
std::shared_ptr<const FutureAttention> nothing_to_come();

/// Keeps the rows that `future`, which is sealed, gives most from the newest row on, per KV head;
/// options, budget, sink and recent as in make_policy. Not exact: what is best for one step may not
/// be for all.
std::unique_ptr<Policy> make_oracle(const PolicyOptions& options, std::span<const KvGroup> groups,
                                    std::shared_ptr<const FutureAttention> future);

}  // namespace ashlar
