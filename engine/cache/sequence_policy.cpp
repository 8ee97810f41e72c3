// How a SequenceCache serves its policy: which query rows score, what the policy sees, what it
// drops.

#include <algorithm>
#include <deque>
#include <memory>

#include "core/base/error.h"
#include "engine/cache/scratch.h"
#include "engine/cache/sequence_cache.h"
#include "kernels/kv_features.h"

namespace ashlar {

// Whether the policy acts and did so right behind the rows that are in.
bool SequenceCache::follows_action(const Group& group) const {
  return acting_ && group.acted > 0 && group.acted == group.position;
}

// Whether the step under way brings decoded rows instead of rows of a prompt.
bool SequenceCache::decodes(const Group& group) const {
  if (!follows_action(group)) return false;
  if (holding_) return group.step_rows > 0;
  return group.step_rows == 1 && prompt_end_ <= group.position + 1;
}

// The first row of the step under way that scores; the others of the step do too. Behind the step:
// none.
int64_t SequenceCache::scored_from(const Group& group, const Lane& lane) const {
  const PolicyNeeds& needs = policy_->needs();
  const int64_t end = group.position + group.step_rows;
  int64_t from = std::max(group.position, needs.scored_beyond);
  if (decodes(group)) {
    if (!needs.decoded_rows) return end;
  } else if (!holding_ || prompt_end_ >= 0) {
    const int64_t last = needs.reducer == ScoreReducer::kLast ? 1 : needs.prompt_rows;
    if (last > 0) from = std::max(from, (prompt_end_ >= 0 ? prompt_end_ : end) - last);
  }
  // The step's last row sees all rows of the lane, each row before it one less.
  from = std::max(from, end - lane.rows() + need_of(needs.scored_above, group.place));
  return std::min(from, end);
}

// Whether no row of a step of `rows` rows to come can score, where none has.
bool SequenceCache::sleeps(const Group& group, const Lane& lane, int64_t rows) const {
  if (!lane.scores().any() || lane.scores().scored_rows() > 0) return false;
  return rows == 1 && follows_action(group) && !policy_->needs().decoded_rows;
}

bool SequenceCache::policy_scores(const Group& group) const {
  return group.governed && policy_->needs().reducer != ScoreReducer::kNone;
}

int64_t SequenceCache::heads_scored_together(int64_t id) const {
  const Group& group = at(id);
  if (!group.probing.empty()) return 1;
  return policy_scores(group) ? group.lanes.front().scores().heads_together() : 0;
}

// Rows have come in: what they will add to.
void SequenceCache::begin_scores(Group& group) {
  if (!policy_scores(group)) return;
  const int64_t end = group.position + group.step_rows;
  for (Lane& lane : group.lanes) {
    LaneScores& scores = lane.scores();
    const int64_t from = scored_from(group, lane);
    if (!holding_) {
      if (from < end) scores.begin(from, lane.rows());
      continue;
    }
    const bool begins = scores.begins_at(from),
               last = policy_->needs().reducer == ScoreReducer::kLast;
    for (int64_t p = end - group.last_rows; p < end; ++p) {
      scores.hold(lane.rows(), p >= from, last || (p == from && begins));
    }
  }
}

ScoreRows SequenceCache::scores(int64_t id, int64_t head, const QueryTile& tile) {
  Group& group = at(id);
  if (!group.probing.empty()) return probe_scores(group, head, tile);
  if (!policy_scores(group)) return {};
  Lane& lane = group.lanes[lane_index(group, head)];
  const int64_t own = head - lane.head_begin();
  const int64_t row = group.step_rows - group.last_rows + tile.row, p = group.position + row;
  if (holding_) return lane.scores().add_to_held(row, own);
  const int64_t from = scored_from(group, lane);
  if (from >= p + tile.rows) return {};
  ScoreRows rows = lane.scores().add_to(own);
  rows.from = std::max<int64_t>(0, from - p);
  return rows;
}

namespace {

// What a policy sees of a lane, and where the numbers lie that only it needs.
struct LaneSight {
  LaneView view;
  std::vector<float> scores, counts, head_scores, head_counts, key_cosines, value_norms;
};

void see_scores(const LaneScores& scores, const PolicyNeeds& needs, LaneSight& sight) {
  LaneView& view = sight.view;
  view.scored_rows = scores.scored_rows();
  view.scores = scores.sums(view.rows(), sight.scores);
  view.counts = scores.counts(view.rows(), sight.counts);
  if (!needs.head_scores) return;
  view.head_scores = scores.head_sums(view.rows(), sight.head_scores);
  view.head_counts = scores.head_counts(view.rows(), sight.head_counts);
}

void see_features(const Lane& lane, const KvGroup& group, const PolicyNeeds& needs,
                  LaneSight& sight) {
  const int64_t rows = sight.view.rows();
  if (rows <= need_of(needs.features_above, sight.view.place)) return;
  const auto size = static_cast<size_t>(lane.heads() * rows);
  if (needs.key_cosines) sight.key_cosines.resize(size);
  if (needs.value_norms) sight.value_norms.resize(size);
  std::vector<float> mean(static_cast<size_t>(group.key_dim));
  std::vector<std::byte> space;
  std::byte* const scratch =
      fit_aligned(space, kv_features_scratch_bytes(group.key_dim, group.value_dim));
  const QueryTile all = lane.everything();
  for (int64_t h = 0; h < lane.heads(); ++h) {
    const KvHeadView keys = lane.view(lane.head_begin() + h, all);
    if (needs.key_cosines) {
      kv_mean_direction(keys, all.raw_visible, group.key_dim, mean.data(), scratch);
      kv_key_cosines(keys, all.raw_visible, group.key_dim, mean.data(),
                     sight.key_cosines.data() + h * rows, scratch);
    }
    if (needs.value_norms) {
      kv_norms(keys, all.raw_visible, group.key_dim, group.value_dim, nullptr,
               sight.value_norms.data() + h * rows, scratch);
    }
  }
  sight.view.key_cosines = sight.key_cosines;
  sight.view.value_norms = sight.value_norms;
}

}  // namespace

void SequenceCache::apply_policy(const Policy& policy, std::span<SequenceCache* const> caches,
                                 int64_t id) {
  const PolicyNeeds& needs = policy.needs();
  if (needs.recall) return;
  std::deque<LaneSight> sights;
  std::vector<LaneView> views;
  std::vector<Lane*> lanes;
  for (SequenceCache* cache : caches) {
    Group& group = cache->at(id);
    if (cache->policy_.get() != &policy || !cache->acting_ || !group.governed) continue;
    for (Lane& lane : group.lanes) {
      LaneSight& sight = sights.emplace_back();
      LaneView& view = sight.view;
      view.group = id;
      view.newest = group.position + group.step_rows - 1;
      view.positions = lane.positions();
      view.place = group.place;
      view.head = lane.head_begin();
      view.heads = lane.heads();
      view.readers = static_cast<int64_t>(group.info.readers.size());
      view.prompt_end = !cache->decodes(group);
      see_scores(lane.scores(), needs, sight);
      if (needs.key_cosines || needs.value_norms) see_features(lane, group.info, needs, sight);
      views.push_back(view);
      lanes.push_back(&lane);
    }
  }
  if (views.empty()) return;
  std::vector<LaneEdit> edits(views.size());
  policy.select(views, edits);
  for (size_t i = 0; i < edits.size(); ++i) {
    lanes[i]->drop(edits[i].drop);
    if (edits[i].forget) lanes[i]->scores().forget();
  }
}

void SequenceCache::advance_scores(Group& group) {
  for (Lane& lane : group.lanes) {
    lane.scores().adopt_held(lane.rows());
    if (!policy_scores(group)) continue;
    lane.scores().advance(scored_from(group, lane), group.position + group.step_rows);
  }
}

}  // namespace ashlar
