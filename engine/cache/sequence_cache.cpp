#include "engine/cache/sequence_cache.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

void check_goes_with(const CacheOptions& options, const Policy* policy) {
  validate(options);
  if (policy == nullptr || !policy->needs().recall) return;
  const RecallNeeds& recall = *policy->needs().recall;
  require(recall.page_rows == options.page_rows, ErrorCode::kRequest,
          "KV cache: the policy chooses among pages of {} rows, the cache has pages of {}",
          recall.page_rows, options.page_rows);
  require(
      options.precise_sinks == 0 && options.residual == 0, ErrorCode::kRequest,
      "KV cache: a policy that recalls pages backs them up in one form, once: it cannot go with "
      "rows that are fp16 for good or until others follow (--kv-fp16-first, --kv-fp16-newest)");
}

void check_zip(const CacheOptions& options, bool governed, std::span<const KvGroup> groups) {
  if (!options.zip) return;
  require(
      !governed, ErrorCode::kRequest,
      "KV cache: zipcache ranks rows and stores each in a segment that never changes: no row of "
      "it can be dropped, moved or recalled by a policy; use --kv-policy none");
  bool some = false;
  for (const KvGroup& group : groups) {
    if (!zips(options, group)) continue;
    some = true;
    require(!group.value_in_key, ErrorCode::kRequest,
            "KV cache: zipcache quantizes keys by channels and values by rows; latent attention "
            "keeps the value in the key");
  }
  require(some, ErrorCode::kRequest,
          "KV cache: zipcache: every layer of this model has a window, which bounds its cache: "
          "there is nothing to rank");
}

SequenceCache::SequenceCache(std::span<const KvGroup> groups, const CacheOptions& options,
                             std::shared_ptr<const Policy> policy, Arena& arena)
    : options_(options), policy_(std::move(policy)), arena_(arena), pool_(arena) {
  check_goes_with(options, policy_.get());
  check_zip(options, policy_ != nullptr, groups);
  groups_.resize(groups.size());
  int64_t places = 0;
  for (const KvGroup& info : groups) {
    Group& group = at(info.id);
    group.info = info;
    group.cached = info.lifetime == KvLifetime::kSequence;
    group.governed = policy_ != nullptr && governs(info);
    if (group.governed) group.place = places++;
    group.recalls =
        group.governed && policy_->needs().recall && group.place >= policy_->needs().recall->exempt;
    group.zips = zips(options, info);
    if (group.cached) add_lanes(group);
    recount(group);
  }
}

SequenceCache::~SequenceCache() { arena_.memory().count(-tables_); }

int64_t SequenceCache::lane_width(const Group& group) const {
  return group.zips || (group.governed && policy_->needs().per_head) ? 1 : group.info.heads;
}

void SequenceCache::add_lanes(Group& group) {
  const int64_t width = lane_width(group);
  const ScoreKind scores = group.governed ? ScoreKind(policy_->needs()) : ScoreKind();
  for (int64_t h = 0; h < group.info.heads; h += width) {
    group.lanes.emplace_back(group.info, h, width, options_, scores, pool_,
                             group.recalls ? &*policy_->needs().recall : nullptr);
  }
}

std::unique_ptr<SequenceCache> SequenceCache::fork(std::shared_ptr<const Policy> policy) const {
  ASHLAR_CHECK(between_steps() && !swapped_out());
  std::vector<KvGroup> infos;
  for (const Group& group : groups_) infos.push_back(group.info);
  auto copy = std::make_unique<SequenceCache>(infos, options_, std::move(policy), arena_);
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = copy->groups_[g];
    group.position = groups_[g].position;
    group.acted = groups_[g].acted;
    group.probes = groups_[g].probes;
    group.probes_from = groups_[g].probes_from;
    group.lanes.clear();
    for (const Lane& lane : groups_[g].lanes) {
      group.lanes.push_back(lane.fork(group.info, copy->pool_));
    }
    copy->recount(group);
  }
  copy->acting_ = acting_;
  copy->holding_ = holding_;
  copy->prompt_end_ = prompt_end_;
  return copy;
}

// Bytes that tables and buffers may grow by: fit_table's units, page tables of the two stores that
// grow.
int64_t SequenceCache::tables_for(int64_t rows, int64_t step) const {
  step = std::min(rows, step);
  int64_t grown = 0, staging = 0, frozen = 0;
  for (const Group& group : groups_) {
    int64_t of_group = 0;
    for (const Lane& lane : group.lanes) {
      const int64_t tables = sleeps(group, lane, rows) ? 0 : lane.scores().tables();
      const int64_t held = holding_ ? tables * step : 0;
      grown += 4 * (rows + kTableRows) * (1 + tables) +
               4 * held * round_up(lane.rows() + rows, kTableRows);
      // Scores of the rows that are there, if they begin anew.
      if (lane.scores().scored_rows() == 0) grown += 4 * tables * lane.rows();
      grown += 2 * static_cast<int64_t>(sizeof(PageId) + sizeof(void*)) *
               (ceil_div(rows, options_.page_rows) + 2 * kTablePages);
      if (lane.recall() != nullptr) {
        grown += lane.recall()->tables_for(ceil_div(rows, options_.page_rows));
      }
      of_group += lane.staging_bytes(step);
      if (lane.zip() == nullptr) continue;
      const int64_t waiting = lane.waiting() + rows;
      grown += lane.zip()->tables_for(waiting);
      frozen = std::max(frozen, lane.zip()->work_bytes(waiting));
    }
    if (group.zips) of_group += step;  // which rows are probes
    // A cache that does not hold settles one group before the next begins.
    staging = holding_ ? staging + of_group : std::max(staging, of_group);
  }
  return grown + std::max(staging, frozen);
}

void SequenceCache::prepare(int64_t rows, int64_t step) {
  ASHLAR_CHECK(rows >= 0 && step >= 1 && !swapped_out());
  const bool drops = policy_ != nullptr && acting_;
  release_reserve();
  try {
    int64_t pages = 0;
    for (const Group& group : groups_) {
      for (const Lane& lane : group.lanes) {
        const int64_t position = group.position + group.step_rows;
        pages += lane.reserve(pool_, position, rows, step, drops && group.governed, acting_);
      }
    }
    const int64_t tables = tables_for(rows, step), need = bytes().total() + pages + tables;
    require(options_.max_bytes == 0 || need <= options_.max_bytes, ErrorCode::kRequest,
            "the KV cache of this sequence may need {} bytes for {} more rows, its limit is {}",
            need, rows, options_.max_bytes);
    arena_.memory().require_room(tables);
    arena_.backups().check();
  } catch (...) {
    release_reserve();
    throw;
  }
}

// The provider learns how the group's tables have grown or shrunk.
void SequenceCache::recount(Group& group) {
  int64_t now = static_cast<int64_t>(group.probing.capacity());
  for (const Lane& lane : group.lanes) now += lane.table_bytes();
  arena_.memory().count(now - group.tables);
  tables_ += now - group.tables;
  group.tables = now;
}

size_t SequenceCache::lane_index(const Group& group, int64_t head) {
  return static_cast<size_t>(head / group.lanes.front().heads());
}

void SequenceCache::append(int64_t id, const float* keys, const float* values, int64_t rows) {
  Group& group = at(id);
  ASHLAR_CHECK(group.cached && (group.step_rows == 0 || holding_) && rows > 0 && !swapped_out());
  require(group.position + group.step_rows + rows <= INT32_MAX, ErrorCode::kResource,
          "the cache holds at most {} rows", INT32_MAX);
  for (Lane& lane : group.lanes) {
    lane.append(group.position, group.step_rows, rows, keys, values);
  }
  group.step_rows += rows;
  group.last_rows = rows;
  plan_probes(group);
  begin_scores(group);
  recount(group);
}

void SequenceCache::query_tiles(int64_t id, int64_t head, std::vector<QueryTile>& tiles) const {
  const Group& group = at(id);
  const Lane& lane = group.lanes[lane_index(group, head)];
  const int64_t last = group.position + group.step_rows, p_rows = options_.page_rows;
  // Held scores are kept after every row, so every row is a tile; the newest row's are its tile's.
  const int64_t widest = holding_ && policy_scores(group) ? 1 : p_rows;
  tiles.clear();
  for (int64_t p = last - group.last_rows; p < last; p += tiles.back().rows) {
    QueryTile tile = lane.tile(group.position, p);
    tile.row = p - (last - group.last_rows);
    tile.rows = std::min({widest, last - p, p / p_rows * p_rows + p_rows - p});
    tiles.push_back(tile);
  }
}

KvHeadView SequenceCache::view(int64_t id, int64_t head, const QueryTile& tile) const {
  const Group& group = at(id);
  return group.lanes[lane_index(group, head)].view(head, tile);
}

int64_t SequenceCache::position(int64_t group) const { return at(group).position; }

int64_t SequenceCache::rows(int64_t group, int64_t head) const {
  return static_cast<int64_t>(positions(group, head).size());
}

int64_t SequenceCache::encoded_rows(int64_t id, int64_t head) const {
  const Group& group = at(id);
  return group.lanes[lane_index(group, head)].encoded_rows();
}

std::span<const int32_t> SequenceCache::positions(int64_t id, int64_t head) const {
  const Group& group = at(id);
  return group.lanes[lane_index(group, head)].positions();
}

}  // namespace ashlar
