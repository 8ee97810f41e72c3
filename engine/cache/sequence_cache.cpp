#include "engine/cache/sequence_cache.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"

namespace ashlar {
SequenceCache::SequenceCache(std::span<const KvGroup> groups, const CacheOptions& options,
                             std::shared_ptr<const Policy> policy, Arena& arena)
    : options_(options), policy_(std::move(policy)), arena_(arena) {
  // drop() moves encoded rows verbatim.
  ASHLAR_CHECK(codec_row_movable(options.key_codec) && codec_row_movable(options.value_codec));
  groups_.resize(groups.size());
  const bool per_head = policy_ != nullptr && policy_->per_head();
  for (const KvGroup& info : groups) {
    Group& group = at(info.id);
    group.info = info;
    group.cached = info.lifetime == KvLifetime::kSequence;
    if (!group.cached) continue;
    group.governed = policy_ != nullptr && info.window == 0;
    group.key_bytes = codec_vector_bytes(options.key_codec, info.key_dim);
    if (!info.value_in_key) {
      group.value_bytes = codec_vector_bytes(options.value_codec, info.value_dim);
    }
    const int64_t width = per_head && group.governed ? 1 : info.heads;
    for (int64_t h = 0; h < info.heads; h += width) {
      Lane lane;
      lane.head_begin = h;
      lane.head_end = h + width;
      if (scored(info.id)) lane.scores.resize(info.readers.size() * static_cast<size_t>(width));
      lane.held_scores.resize(lane.scores.size());
      group.lanes.push_back(std::move(lane));
    }
  }
}

SequenceCache::~SequenceCache() {
  for (Group& group : groups_) {
    for (Lane& lane : group.lanes) {
      for (PageId page : lane.pages) arena_.release(page);
      if (lane.raw_page.chunk >= 0) arena_.release(lane.raw_page);
    }
  }
}

PageId SequenceCache::take(int64_t bytes) {
  const PageId page = arena_.allocate(bytes);
  bytes_ += bytes;
  return page;
}

void SequenceCache::give(PageId page, int64_t bytes) {
  arena_.release(page);
  bytes_ -= bytes;
}

const SequenceCache::Lane& SequenceCache::lane_of(const Group& group, int64_t head) const {
  const int64_t width = group.lanes.front().heads();
  return group.lanes[static_cast<size_t>(head / width)];
}

int64_t SequenceCache::raw_row_floats(const Group& group, const Lane& lane) const {
  return lane.heads() * group.info.entry_width();
}

// Raw rows: [row][keys of the lane's heads, then their values].
float* SequenceCache::raw_base(const Group& group, Lane& lane) {
  if (lane.staged) return lane.staging.data();
  if (lane.raw_page.chunk < 0) lane.raw_page = take(4 * kPageRows * raw_row_floats(group, lane));
  return reinterpret_cast<float*>(arena_.address(lane.raw_page));
}

const float* SequenceCache::raw_base(const Lane& lane) const {
  if (lane.staged) return lane.staging.data();
  return reinterpret_cast<const float*>(arena_.address(lane.raw_page));
}

void SequenceCache::append_raw(Group& group, Lane& lane, const float* keys, const float* values,
                               int64_t rows) {
  const KvGroup& info = group.info;
  const int64_t width = raw_row_floats(group, lane);
  if (lane.raw + rows > kPageRows) {
    const float* tail = raw_base(group, lane);
    std::vector<float> staging(static_cast<size_t>((lane.raw + rows) * width));
    std::copy_n(tail, lane.raw * width, staging.data());
    lane.staging = std::move(staging);
    lane.staged = true;
  }
  float* out = raw_base(group, lane) + lane.raw * width;
  const int64_t key_width = lane.heads() * info.key_dim;
  const int64_t value_width = width - key_width;
  for (int64_t r = 0; r < rows; ++r, out += width) {
    std::copy_n(keys + (r * info.heads + lane.head_begin) * info.key_dim, key_width, out);
    if (value_width > 0) {
      std::copy_n(values + (r * info.heads + lane.head_begin) * info.value_dim, value_width,
                  out + key_width);
    }
    lane.positions.push_back(static_cast<int32_t>(group.position + group.step_rows + r));
  }
  lane.raw += rows;
  for (auto& scores : lane.scores) scores.resize(lane.positions.size(), 0.0f);
}

void SequenceCache::append(int64_t id, const float* keys, const float* values, int64_t rows) {
  Group& group = at(id);
  ASHLAR_CHECK(group.cached && (group.step_rows == 0 || holding_) && rows > 0);
  require(group.position + group.step_rows + rows <= INT32_MAX, ErrorCode::kResource,
          "the cache holds at most {} rows", INT32_MAX);
  for (Lane& lane : group.lanes) {
    if (group.step_rows == 0) {
      lane.encoded_before = lane.encoded;
      lane.raw_before = lane.raw;
    }
    append_raw(group, lane, keys, values, rows);
  }
  group.step_rows += rows;
  group.last_rows = rows;
  for (Lane& lane : group.lanes) {
    encode(group, lane, encoded_early(group, lane) - (lane.encoded - lane.encoded_before));
  }
}

// Raw rows that the newest provisional row must see encoded: those of pages complete before it.
int64_t SequenceCache::encoded_early(const Group& group, const Lane& lane) const {
  if (group.step_rows == 0) return 0;
  const int64_t below = (group.position + group.step_rows - 1) / kPageRows * kPageRows;
  return below > group.position ? lane.raw_before + below - group.position : 0;
}

std::byte* SequenceCache::slot_key(const Group& group, Lane& lane, int64_t head, int64_t slot) {
  const int64_t vector_bytes = group.key_bytes + group.value_bytes;
  std::byte* page = arena_.address(lane.pages[static_cast<size_t>(slot / kPageRows)]);
  return page + (head - lane.head_begin) * kPageRows * vector_bytes +
         (slot % kPageRows) * group.key_bytes;
}

// A page holds, head by head, P encoded keys and then P encoded values.
std::byte* SequenceCache::slot_value(const Group& group, Lane& lane, int64_t head, int64_t slot) {
  return slot_key(group, lane, head, slot) + kPageRows * group.key_bytes -
         (slot % kPageRows) * (group.key_bytes - group.value_bytes);
}

void SequenceCache::move_row(const Group& group, Lane& lane, int64_t from, int64_t to) {
  for (int64_t h = lane.head_begin; h < lane.head_end; ++h) {
    std::memcpy(slot_key(group, lane, h, to), slot_key(group, lane, h, from),
                static_cast<size_t>(group.key_bytes));
    std::memcpy(slot_value(group, lane, h, to), slot_value(group, lane, h, from),
                static_cast<size_t>(group.value_bytes));
  }
}

// Encodes the lane's next `rows` raw rows that are not encoded yet. During a step the raw rows stay
// where they are (earlier queries see them raw); retire_encoded() removes them.
void SequenceCache::encode(Group& group, Lane& lane, int64_t rows) {
  const KvGroup& info = group.info;
  const int64_t width = raw_row_floats(group, lane);
  if (rows == 0) return;
  const float* raw = raw_base(group, lane) + (lane.encoded - lane.encoded_before) * width;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = lane.encoded + r;
    if (slot / kPageRows == static_cast<int64_t>(lane.pages.size())) {
      lane.pages.push_back(take(page_bytes(group, lane)));
      lane.addresses.push_back(arena_.address(lane.pages.back()));
    }
    for (int64_t h = lane.head_begin; h < lane.head_end; ++h) {
      const int64_t local = h - lane.head_begin;
      const float* key = raw + r * width + local * info.key_dim;
      const float* value = raw + r * width + lane.heads() * info.key_dim + local * info.value_dim;
      codec_encode(options_.key_codec, key, 0, 1, info.key_dim, slot_key(group, lane, h, slot), 0);
      if (info.value_in_key) continue;
      codec_encode(options_.value_codec, value, 0, 1, info.value_dim,
                   slot_value(group, lane, h, slot), 0);
    }
  }
  lane.encoded += rows;
}

void SequenceCache::query_tiles(int64_t id, int64_t head, std::vector<QueryTile>& tiles) const {
  const Group& group = at(id);
  const Lane& lane = lane_of(group, head);
  const int64_t last = group.position + group.step_rows;
  // Held scores are kept after every row, so every row is a tile; the newest row's are its tile's.
  const int64_t widest = holding_ && scored(id) ? 1 : kPageRows;
  const bool newest_alone = scored(id) && policy_->reducer() == ScoreReducer::kLast;
  tiles.clear();
  for (int64_t p = last - group.last_rows; p < last; p += tiles.back().rows) {
    const int64_t page = p / kPageRows * kPageRows;
    QueryTile tile;
    tile.row = p - (last - group.last_rows);
    tile.rows = std::min({widest, last - p, page + kPageRows - p});
    if (newest_alone && p + tile.rows == last && tile.rows > 1) --tile.rows;
    if (page > group.position) tile.raw_offset = lane.raw_before + page - group.position;
    tile.encoded = lane.encoded_before + tile.raw_offset;
    tile.raw_visible = lane.raw_before + p - group.position + 1 - tile.raw_offset;
    tiles.push_back(tile);
  }
}

KvHeadView SequenceCache::view(int64_t id, int64_t head, const QueryTile& tile) const {
  const Group& group = at(id);
  const Lane& lane = lane_of(group, head);
  const int64_t local = head - lane.head_begin;
  KvHeadView view;
  view.key_codec = options_.key_codec;
  view.value_codec = options_.value_codec;
  view.pages = lane.addresses.data();
  view.page_rows = kPageRows;
  view.key_offset = local * kPageRows * (group.key_bytes + group.value_bytes);
  view.value_offset = view.key_offset + kPageRows * group.key_bytes;
  view.key_stride = group.key_bytes;
  view.value_stride = group.value_bytes;
  view.encoded = tile.encoded;
  const int64_t width = raw_row_floats(group, lane);
  const float* raw = raw_base(lane);
  view.raw_keys = raw + tile.raw_offset * width + local * group.info.key_dim;
  view.raw_values = raw + tile.raw_offset * width + lane.heads() * group.info.key_dim +
                    local * group.info.value_dim;
  view.raw_key_stride = view.raw_value_stride = width;
  if (group.info.value_in_key) {
    view.value_codec = view.key_codec;
    view.value_offset = view.key_offset;
    view.value_stride = view.key_stride;
    view.raw_values = view.raw_keys;
  }
  return view;
}

bool SequenceCache::scored(int64_t group) const {
  return at(group).governed && policy_->reducer() != ScoreReducer::kNone;
}

// Readers have buffers of their own: they run one after the other over a step's rows, so a shared
// sum would depend on how the rows are cut into steps.
float* SequenceCache::scores(int64_t id, int64_t head, int64_t reader, const QueryTile& tile) {
  if (!scored(id)) return nullptr;
  Group& group = at(id);
  Lane& lane = group.lanes[static_cast<size_t>(head / group.lanes.front().heads())];
  const auto i = static_cast<size_t>(reader * lane.heads() + head - lane.head_begin);
  const bool afresh = policy_->reducer() == ScoreReducer::kLast;
  if (!holding_) {
    if (!afresh) return lane.scores[i].data();
    if (tile.row + tile.rows != group.last_rows) return nullptr;
    std::fill(lane.scores[i].begin(), lane.scores[i].end(), 0.0f);
    return lane.scores[i].data();
  }
  auto& held = lane.held_scores[i];
  const auto row = static_cast<size_t>(group.step_rows - group.last_rows + tile.row);
  ASHLAR_CHECK_EQ(held.size(), row);
  std::vector<float> scores;
  if (!afresh) scores = held.empty() ? lane.scores[i] : held.back();
  scores.resize(lane.positions.size(), 0.0f);
  return held.emplace_back(std::move(scores)).data();
}

// Holes among encoded rows are filled with the last encoded rows, so a drop moves as many rows as
// it removes; the few raw rows close up in order.
void SequenceCache::drop(Group& group, Lane& lane, const std::vector<int64_t>& slots) {
  if (slots.empty()) return;
  const auto split = std::lower_bound(slots.begin(), slots.end(), lane.encoded);
  const auto keep_meta = [&](int64_t from, int64_t to) {
    lane.positions[static_cast<size_t>(to)] = lane.positions[static_cast<size_t>(from)];
    for (auto& scores : lane.scores) {
      scores[static_cast<size_t>(to)] = scores[static_cast<size_t>(from)];
    }
  };
  const int64_t old_encoded = lane.encoded;
  const int64_t kept = old_encoded - (split - slots.begin());
  auto doomed = split;  // walks down from the largest dropped encoded slot
  int64_t source = old_encoded - 1;
  for (auto hole = slots.begin(); hole != split && *hole < kept; ++hole) {
    while (doomed != slots.begin() && *(doomed - 1) == source) --doomed, --source;
    move_row(group, lane, source, *hole);
    keep_meta(source, *hole);
    --source;
  }
  const int64_t width = raw_row_floats(group, lane);
  float* raw = raw_base(group, lane);
  int64_t to = 0;
  auto next = split;
  for (int64_t r = 0; r < lane.raw; ++r) {
    if (next != slots.end() && *next == old_encoded + r) {
      ++next;
      continue;
    }
    if (to != r) std::memmove(raw + to * width, raw + r * width, static_cast<size_t>(4 * width));
    keep_meta(old_encoded + r, kept + to);
    ++to;
  }
  lane.encoded = kept;
  lane.raw = to;
  lane.positions.resize(static_cast<size_t>(kept + to));
  for (auto& scores : lane.scores) scores.resize(lane.positions.size());
  release_pages(group, lane);
}

int64_t SequenceCache::page_bytes(const Group& group, const Lane& lane) const {
  return kPageRows * lane.heads() * (group.key_bytes + group.value_bytes);
}

// Pages past the last encoded row go back.
void SequenceCache::release_pages(const Group& group, Lane& lane) {
  const int64_t bytes = page_bytes(group, lane);
  const int64_t pages = (lane.encoded + kPageRows - 1) / kPageRows;
  while (static_cast<int64_t>(lane.pages.size()) > pages) {
    give(lane.pages.back(), bytes);
    lane.pages.pop_back();
    lane.addresses.pop_back();
  }
}

// Rows in front that the next query, at `position`, and all later ones do not see. They are
// encoded: they end at a multiple of kAttentionTile that is no larger than `position`.
void SequenceCache::release_front(const Group& group, Lane& lane) {
  static_assert(kAttentionTile % kPageRows == 0);
  if (group.info.window == 0) return;
  const int64_t unseen = std::max<int64_t>(0, group.position + 1 - group.info.window);
  const int64_t gone = unseen / kAttentionTile * kAttentionTile - lane.front;
  if (gone <= 0) return;
  const int64_t pages = gone / kPageRows;
  ASHLAR_CHECK_LE(gone, lane.encoded);
  for (int64_t p = 0; p < pages; ++p) {
    give(lane.pages[static_cast<size_t>(p)], page_bytes(group, lane));
  }
  lane.pages.erase(lane.pages.begin(), lane.pages.begin() + pages);
  lane.addresses.erase(lane.addresses.begin(), lane.addresses.begin() + pages);
  lane.positions.erase(lane.positions.begin(), lane.positions.begin() + gone);
  lane.front += gone;
  lane.encoded -= gone;
  lane.encoded_before = lane.encoded;
}

int64_t SequenceCache::position(int64_t group) const { return at(group).position; }

int64_t SequenceCache::rows(int64_t group, int64_t head) const {
  return static_cast<int64_t>(positions(group, head).size());
}

int64_t SequenceCache::encoded_rows(int64_t group, int64_t head) const {
  return lane_of(at(group), head).encoded;
}

std::span<const int32_t> SequenceCache::positions(int64_t group, int64_t head) const {
  return lane_of(at(group), head).positions;
}

}  // namespace ashlar
