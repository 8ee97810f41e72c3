// How a step of a SequenceCache ends: policy, drop, compaction, encoding; and what is undone when
// rows are not committed.

#include <algorithm>
#include <cstring>
#include <deque>

#include "core/base/error.h"
#include "engine/cache/sequence_cache.h"

namespace ashlar {
namespace {

std::vector<float> sum_of(const std::vector<std::vector<float>>& scores) {
  std::vector<float> sum = scores[0];
  for (size_t i = 1; i < scores.size(); ++i) {
    for (size_t s = 0; s < sum.size(); ++s) sum[s] += scores[i][s];
  }
  return sum;
}

}  // namespace

void SequenceCache::finish(Group& group) {
  group.position += group.step_rows;
  group.step_rows = group.last_rows = 0;
  for (Lane& lane : group.lanes) {
    lane.encoded_before = lane.encoded;
    if (group.position % kPageRows == 0 && lane.raw > 0) {
      encode(group, lane, lane.raw);
      lane.encoded_before = lane.encoded;
      lane.raw = 0;
    }
    unstage(group, lane);
    release_front(group, lane);
  }
}

// Raw rows go back to the raw page, which holds what is left of them.
void SequenceCache::unstage(const Group& group, Lane& lane) {
  if (!lane.staged) return;
  const std::vector<float> staging = std::move(lane.staging);
  lane.staging.clear();
  lane.staged = false;
  std::copy_n(staging.data(), lane.raw * raw_row_floats(group, lane), raw_base(group, lane));
}

// Rows encoded during the step leave the raw rows.
void SequenceCache::retire_encoded(Group& group) {
  for (Lane& lane : group.lanes) {
    const int64_t gone = lane.encoded - lane.encoded_before;
    if (gone == 0) continue;
    const int64_t width = raw_row_floats(group, lane);
    float* raw = raw_base(group, lane);
    lane.raw -= gone;
    std::memmove(raw, raw + gone * width, static_cast<size_t>(4 * lane.raw * width));
  }
}

// The scores after the last committed row become the lane's.
void SequenceCache::adopt_held_scores(Lane& lane) {
  for (size_t i = 0; i < lane.scores.size(); ++i) {
    auto& held = lane.held_scores[i];
    if (held.empty()) continue;
    lane.scores[i] = std::move(held.back());
    lane.scores[i].resize(lane.positions.size(), 0.0f);
    held.clear();
  }
}

void SequenceCache::apply_policy(const Policy& policy, std::span<SequenceCache* const> caches,
                                 int64_t id) {
  std::vector<LaneView> views;
  std::vector<std::pair<SequenceCache*, Lane*>> owners;
  const bool scored = policy.reducer() != ScoreReducer::kNone;
  std::deque<std::vector<float>> sums;  // of lanes with several heads; views point into it
  for (SequenceCache* cache : caches) {
    Group& group = cache->at(id);
    if (cache->policy_.get() != &policy || !cache->acting_ || !group.governed) continue;
    for (Lane& lane : group.lanes) {
      LaneView view{id, group.position + group.step_rows - 1, lane.positions, {}};
      if (scored && lane.scores.size() == 1) view.scores = lane.scores[0];
      if (scored && lane.scores.size() > 1) view.scores = sums.emplace_back(sum_of(lane.scores));
      views.push_back(view);
      owners.emplace_back(cache, &lane);
    }
  }
  if (views.empty()) return;
  std::vector<LaneEdit> edits(views.size());
  policy.select(views, edits);
  for (size_t i = 0; i < edits.size(); ++i) {
    auto [cache, lane] = owners[i];
    cache->drop(cache->at(id), *lane, edits[i].drop);
  }
}

void SequenceCache::end_step(std::span<SequenceCache* const> caches, int64_t id) {
  for (SequenceCache* cache : caches) {
    Group& group = cache->at(id);
    cache->retire_encoded(group);
    for (Lane& lane : group.lanes) adopt_held_scores(lane);
  }
  std::vector<const Policy*> done;
  for (SequenceCache* cache : caches) {
    const Policy* policy = cache->policy_.get();
    if (policy == nullptr || std::find(done.begin(), done.end(), policy) != done.end()) continue;
    done.push_back(policy);
    apply_policy(*policy, caches, id);
  }
  for (SequenceCache* cache : caches) {
    cache->finish(cache->at(id));
    cache->unsettled_ = !cache->acting_;
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
  for (const Group& group : groups_) ASHLAR_CHECK_EQ(group.step_rows, 0);
  holding_ = holding;
}

void SequenceCache::truncate(Group& group, int64_t rows) {
  const int64_t gone = group.step_rows - rows;
  ASHLAR_CHECK(rows >= 0 && gone >= 0);
  group.step_rows = rows;
  group.last_rows = 0;
  for (Lane& lane : group.lanes) {
    if (gone == 0) continue;
    lane.raw -= gone;
    lane.positions.resize(lane.positions.size() - static_cast<size_t>(gone));
    for (size_t i = 0; i < lane.scores.size(); ++i) {
      lane.scores[i].resize(lane.positions.size());
      auto& held = lane.held_scores[i];
      held.resize(std::min(held.size(), static_cast<size_t>(rows)));
    }
    lane.encoded = lane.encoded_before + encoded_early(group, lane);
    release_pages(group, lane);
    if (rows == 0) unstage(group, lane);
  }
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
