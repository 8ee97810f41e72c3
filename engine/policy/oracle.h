#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/policy/policy.h"

// The ceiling that other methods are measured against: a policy that knows which rows later queries
// will attend to. A first pass over the text with a whole cache records it, a second one evicts.

namespace ashlar {

/// Attention probabilities of queries to come, per KV head of each group.
class FutureAttention {
 public:
  /// The query at position `query` gives the row at position p probabilities[p], summed over what
  /// is to count alike (query heads, readers). Queries of a head come in ascending order.
  void add(int64_t group, int64_t head, int64_t query, std::span<const float> probabilities);
  /// What the recorded queries behind position `newest` give the row at `position` in all.
  double after(int64_t group, int64_t head, int64_t position, int64_t newest) const;

 private:
  struct Head {
    std::vector<int64_t> queries;
    std::vector<std::vector<float>> probabilities;
  };
  std::map<std::pair<int64_t, int64_t>, Head> heads_;
};

/// Keeps the rows that `future` gives most from the newest row on, per KV head; options, budget,
/// sink and recent as in make_policy. Not exact: what is best for one step may not be for all.
std::unique_ptr<Policy> make_oracle(const PolicyOptions& options, std::span<const KvGroup> groups,
                                    std::shared_ptr<const FutureAttention> future);

}  // namespace ashlar
