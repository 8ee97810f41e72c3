#include "data/tokenizer/bpe_model.h"

#include <bit>
#include <functional>
#include <limits>
#include <queue>

namespace ashlar {
namespace {

/// Below this many symbols a scan for the best pair beats a heap.
constexpr size_t kShortWord = 48;

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint64_t hash(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;  // Fibonacci hashing; the high half is well mixed
  return key ^ (key >> 32);
}

}  // namespace

BpeModel::BpeModel(const std::vector<Merge>& merges) {
  slots_.resize(std::bit_ceil(merges.size() * 2 + 2));
  mask_ = slots_.size() - 1;
  for (const Merge& merge : merges) {
    const uint64_t key = pair_key(merge.left, merge.right);
    uint64_t at = hash(key) & mask_;
    while (slots_[at].pair != kEmpty && slots_[at].pair != key) at = (at + 1) & mask_;
    slots_[at] = {key, merge.rank, merge.result};
  }
}

const BpeModel::Slot* BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  for (uint64_t at = hash(key) & mask_;; at = (at + 1) & mask_) {
    const Slot& slot = slots_[at];
    if (slot.pair == key) return &slot;
    if (slot.pair == kEmpty) return nullptr;
  }
}

void BpeModel::merge(std::vector<int32_t>& symbols) const {
  if (slots_.empty() || symbols.size() < 2) return;
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
}

void BpeModel::merge_short(std::vector<int32_t>& symbols) const {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  int32_t ranks[kShortWord], results[kShortWord];
  size_t n = symbols.size();
  const auto look_up = [&](size_t i) {
    const Slot* slot = find(symbols[i], symbols[i + 1]);
    ranks[i] = slot == nullptr ? kNone : slot->rank;
    results[i] = slot == nullptr ? 0 : slot->result;
  };
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNone) break;
    symbols[best] = results[best];
    for (size_t i = best + 1; i + 1 < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 2 < n; ++i) {
      ranks[i] = ranks[i + 1];
      results[i] = results[i + 1];
    }
    --n;
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  symbols.resize(n);
}

void BpeModel::merge_long(std::vector<int32_t>& symbols) const {
  struct Node {
    int64_t previous, next;  // -1 at the ends
  };
  struct Candidate {
    int32_t rank;
    int32_t left, right, result;
    int64_t position;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const auto n = static_cast<int64_t>(symbols.size());
  std::vector<Node> nodes(symbols.size());
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int64_t i) {
    const int64_t j = nodes[at(i)].next;
    if (j < 0) return;
    const int32_t left = symbols[at(i)], right = symbols[at(j)];
    if (const Slot* slot = find(left, right)) {
      queue.push({slot->rank, left, right, slot->result, i});
    }
  };
  for (int64_t i = 0; i < n; ++i) nodes[at(i)] = {i - 1, i + 1 < n ? i + 1 : -1};
  for (int64_t i = 0; i + 1 < n; ++i) offer(i);
  constexpr int32_t kGone = -1;
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const int64_t i = best.position, j = nodes[at(i)].next;
    // Entries whose symbols have changed since are stale.
    if (symbols[at(i)] != best.left || j < 0 || symbols[at(j)] != best.right) continue;
    symbols[at(i)] = best.result;
    symbols[at(j)] = kGone;
    nodes[at(i)].next = nodes[at(j)].next;
    if (nodes[at(i)].next >= 0) nodes[at(nodes[at(i)].next)].previous = i;
    if (nodes[at(i)].previous >= 0) offer(nodes[at(i)].previous);
    offer(i);
  }
  std::erase(symbols, kGone);
}

}  // namespace ashlar
