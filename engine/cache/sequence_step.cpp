// How a step of a SequenceCache ends: policy, drop, compaction, encoding; and what is undone when
// rows are not committed.

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/sequence_cache.h"

namespace ashlar {

bool SequenceCache::between_steps() const {
  return std::all_of(groups_.begin(), groups_.end(),
                     [](const Group& group) { return group.step_rows == 0; });
}

bool SequenceCache::unsettled() const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [](const Group& group) { return group.acted < group.position; });
}

// The query whose view rows are encoded for once a step has ended: the next one. While a policy has
// still to act, the newest one: it drops rows before others are encoded, whether it acts with the
// step that brought the last row or a prompt ends without another.
int64_t SequenceCache::encoded_for(const Group& group, int64_t position, int64_t acted) {
  return std::max<int64_t>(0, position - (group.governed && acted < position ? 1 : 0));
}

void SequenceCache::finish(Group& group) {
  group.position += group.step_rows;
  group.step_rows = group.last_rows = 0;
  if (acting_) group.acted = group.position;
  const int64_t p = encoded_for(group, group.position, group.acted);
  for (Lane& lane : group.lanes) lane.finish(group.position, p);
  if (group.zips) freeze(group);
  recount(group);
}

void SequenceCache::end_step(std::span<SequenceCache* const> caches, int64_t id) {
  for (SequenceCache* cache : caches) {
    for (Lane& lane : cache->at(id).lanes) lane.retire();
    cache->advance_scores(cache->at(id));
  }
  std::vector<const Policy*> done;
  for (SequenceCache* cache : caches) {
    const Policy* policy = cache->policy_.get();
    if (policy == nullptr || std::find(done.begin(), done.end(), policy) != done.end()) continue;
    done.push_back(policy);
    apply_policy(*policy, caches, id);
  }
  for (SequenceCache* cache : caches) {
    cache->choose_at_prompt_end(cache->at(id));
    cache->finish(cache->at(id));
  }
}

void SequenceCache::close(std::span<SequenceCache* const> caches, int64_t id) {
  std::vector<SequenceCache*> ended;
  for (SequenceCache* cache : caches) {
    if (!cache->holding_ || cache->at(id).step_rows == 0) ended.push_back(cache);
  }
  end_step(ended, id);
}

void SequenceCache::set_holding(bool holding) {
  ASHLAR_CHECK(between_steps());
  require(!holding || policy_ == nullptr || !policy_->needs().recall, ErrorCode::kRequest,
          "KV cache: rows cannot be provisional under a policy that recalls pages: each query "
          "chooses the pages that it reads");
  require(!holding || !options_.zip, ErrorCode::kRequest,
          "KV cache: rows cannot be provisional under zipcache: where one of them ends a segment, "
          "the next already sees it");
  holding_ = holding;
}

void SequenceCache::truncate(Group& group, int64_t rows) {
  const int64_t gone = group.step_rows - rows;
  ASHLAR_CHECK(rows >= 0 && gone >= 0);
  group.step_rows = rows;
  group.last_rows = 0;
  if (gone == 0) return;
  for (Lane& lane : group.lanes) lane.truncate(group.position, rows);
  recount(group);
}

void SequenceCache::truncate_provisional(int64_t rows) {
  for (Group& group : groups_) {
    if (group.cached) truncate(group, rows);
  }
}

void SequenceCache::commit(std::span<SequenceCache* const> caches, std::span<const int64_t> rows) {
  ASHLAR_CHECK_EQ(caches.size(), rows.size());
  std::vector<SequenceCache*> ended;
  for (size_t i = 0; i < caches.size(); ++i) {
    ASHLAR_CHECK(caches[i]->holding_);
    caches[i]->truncate_provisional(rows[i]);
    if (rows[i] > 0) ended.push_back(caches[i]);
  }
  if (ended.empty()) return;
  for (const Group& group : ended.front()->groups_) {
    if (group.cached) end_step(ended, group.info.id);
  }
}

}  // namespace ashlar
