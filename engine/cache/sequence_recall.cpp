// How a SequenceCache serves a policy that recalls pages (ArkVale): the queries that choose, and
// when.
//
// Keys lie in the cache as attention reads them, after head norms, RoPE and the online rotation R3,
// and queries come the same way: digests and queries have one basis.

#include "core/base/error.h"
#include "engine/cache/sequence_cache.h"

namespace ashlar {

void SequenceCache::see_queries(int64_t id, const float* queries, int64_t heads, ThreadPool& pool) {
  Group& group = at(id);
  if (!group.recalls) return;
  const int64_t width = heads * group.info.key_dim;
  const std::span<const float> newest(queries + (group.last_rows - 1) * width,
                                      static_cast<size_t>(width));
  if (decodes(group)) {
    choose_pages(group, newest, false, &pool);
  } else {
    for (Lane& lane : group.lanes) lane.recall()->set_query(newest);
  }
}

// `query` is the newest row's.
void SequenceCache::choose_pages(Group& group, std::span<const float> query, bool prompt_end,
                                 ThreadPool* pool) {
  std::vector<float> scores;
  for (Lane& lane : group.lanes) {
    lane.add_filled_pages();
    PageRecall& recall = *lane.recall();
    PagesView view;
    view.place = group.place;
    view.query = group.position + group.step_rows - 1;
    view.prompt_end = prompt_end;
    view.pages = recall.pages();
    view.resident = recall.resident();
    if (!policy_->chooses(view)) continue;
    recall.score(query, pool, scores);
    view.scores = scores;
    const std::vector<int32_t> pages = policy_->choose_pages(view);
    const int64_t recalled = lane.make_resident(pages, pool);
    recall.fetch_ahead(scores, recalled);
  }
}

// What the last query of a prompt chooses is there from the next row on. A decoded row has chosen
// before it attended, and leaves no query.
void SequenceCache::choose_at_prompt_end(Group& group) {
  if (!group.recalls || !acting_ || group.lanes.front().recall()->query().empty()) return;
  const auto query = group.lanes.front().recall()->query();
  const std::vector<float> own(query.begin(), query.end());
  choose_pages(group, own, true, nullptr);
  for (Lane& lane : group.lanes) lane.recall()->set_query({});
}

int64_t SequenceCache::backup_bytes() const {
  int64_t bytes = 0;
  for (const Lane* lane : lanes()) {
    if (lane->recall() != nullptr) bytes += lane->recall()->backup_bytes();
  }
  return bytes;
}

}  // namespace ashlar
