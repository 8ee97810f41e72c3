// How a SequenceCache serves ZipCache: which query rows rank the rows that wait, and when those
// become a segment.

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/sequence_cache.h"

namespace ashlar {

// Probes are among the rows of a prompt under way, or among the `every` rows from the first that
// waits on while rows are decoded. Where that changes, what has scored so far is forgotten: a
// prompt ranks all that waits. Nobody scores while a prompt will leave too few rows for a segment.
void SequenceCache::plan_probes(Group& group) {
  if (!group.zips) return;
  const int64_t every = options_.zip->every, first = group.lanes.front().zip()->rows();
  const int64_t step_end = group.position + group.step_rows;
  int64_t begin = first, end = first + every;
  if (!decodes(group)) {
    begin = group.acted;
    end = std::max(step_end, prompt_end_);
    if (end - first < every) end = 0;
  }
  const int64_t old_begin = group.probes ? group.probes->begin() : 0;
  const int64_t old_end = group.probes ? group.probes->end() : 0;
  if (end == 0 || begin != old_begin || end != old_end) {
    group.probes.reset();
    if (end > 0) group.probes.emplace(*options_.zip, begin, end);
    group.probes_from = group.position;
    for (Lane& lane : group.lanes) lane.zip()->forget_scores();
  }
  if (!group.probes) return;
  std::vector<uint8_t> probing(static_cast<size_t>(group.step_rows));
  bool any = false;
  for (int64_t row = 0; row < group.step_rows; ++row) {
    const bool probe = group.probes->contains(group.position + row);
    probing[static_cast<size_t>(row)] = probe ? 1 : 0;
    any = any || probe;
  }
  if (any) group.probing = std::move(probing);
  for (Lane& lane : group.lanes) lane.zip()->resize_scores(lane.waiting(), any);
}

ScoreRows SequenceCache::probe_scores(Group& group, int64_t head, const QueryTile& tile) {
  const auto first = group.probing.begin() + tile.row;
  if (std::find(first, first + tile.rows, uint8_t{1}) == first + tile.rows) return {};
  Lane& lane = group.lanes[lane_index(group, head)];
  ScoreRows rows;
  rows.sums = lane.zip()->scores();
  rows.rows = &*first;
  rows.slots = lane.zip()->rows();
  return rows;
}

// Behind a step: the prompt has ended, or a row was decoded.
void SequenceCache::freeze(Group& group) {
  std::vector<uint8_t>().swap(group.probing);
  const int64_t waiting = group.lanes.front().waiting();
  if (!acting_ || waiting < options_.zip->every) return;
  const int64_t first = group.position - waiting;
  std::vector<int64_t> counts(static_cast<size_t>(waiting));
  if (group.probes) {
    // A probe before the first that counts left nothing.
    const int64_t from = std::clamp(group.probes_from, first, group.position);
    const std::vector<int64_t> behind = group.probes->counts_from(from, group.position);
    for (int64_t row = 0; row < waiting; ++row) {
      const int64_t at = std::max<int64_t>(0, first + row - from);
      counts[static_cast<size_t>(row)] =
          at < std::ssize(behind) ? behind[static_cast<size_t>(at)] : 0;
    }
  }
  for (Lane& lane : group.lanes) lane.freeze(counts);
  group.probes.reset();
  group.probes_from = 0;
}

void SequenceCache::check_probes(const Group& group, const CacheImage::Group& from,
                                 const std::string& what) const {
  const bool none = from.probe_begin == 0 && from.probe_end == 0 && from.probe_from == 0;
  const bool possible = group.zips && from.probe_begin >= 0 && from.probe_begin <= from.position &&
                        from.probe_end > from.probe_begin && from.probe_end <= INT32_MAX &&
                        from.probe_from >= 0 && from.probe_from <= from.position;
  require(none || possible, ErrorCode::kData, "{}: KV group {}: probe rows that cannot be", what,
          group.info.id);
}

}  // namespace ashlar
