// A cache's rows apart from where they lie, and pages that caches share.

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/sequence_cache.h"

namespace ashlar {

std::vector<const Lane*> SequenceCache::lanes() const {
  std::vector<const Lane*> out;
  for (const Group& group : groups_) {
    for (const Lane& lane : group.lanes) out.push_back(&lane);
  }
  return out;
}

bool SequenceCache::intact() const {
  const std::vector<const Lane*> all = lanes();
  return std::all_of(all.begin(), all.end(), [](const Lane* lane) { return lane->intact(); });
}

void SequenceCache::adopt(int64_t pages,
                          const std::function<PageId(size_t lane, int64_t page)>& page_of) {
  size_t index = 0;
  for (Group& group : groups_) {
    if (group.cached) group.position = pages * options_.page_rows;
    for (Lane& lane : group.lanes) {
      lane.adopt(pages, [&](int64_t page) { return page_of(index, page); });
      ++index;
    }
    recount(group);
  }
}

CacheImage SequenceCache::image() const {
  if (swapped_) return *swapped_;
  ASHLAR_CHECK(between_steps());
  CacheImage image;
  for (const Group& group : groups_) {
    CacheImage::Group& out = image.groups.emplace_back();
    out.position = group.position;
    out.acted = group.acted;
    if (group.probes) {
      out.probe_begin = group.probes->begin();
      out.probe_end = group.probes->end();
      out.probe_from = group.probes_from;
    }
    for (const Lane& lane : group.lanes) out.lanes.push_back(lane.image());
  }
  return image;
}

void SequenceCache::load(const CacheImage& image, const std::string& what) {
  require(image.groups.size() == groups_.size(), ErrorCode::kData,
          "{}: {} KV groups, but the model has {}", what, image.groups.size(), groups_.size());
  for (const Group& group : groups_) {
    const CacheImage::Group& from = image.groups[static_cast<size_t>(group.info.id)];
    require(from.lanes.size() == group.lanes.size() && from.position >= 0 &&
                from.position <= INT32_MAX && from.acted >= 0 && from.acted <= from.position,
            ErrorCode::kData,
            "{}: KV group {} has another number of lanes, or no possible position", what,
            group.info.id);
    check_probes(group, from, what);
    const int64_t p = encoded_for(group, from.position, from.acted);
    for (const LaneImage& lane : from.lanes) {
      const bool asks = group.recalls && from.acted < from.position;
      require(asks == !lane.query.empty(), ErrorCode::kData,
              "{}: KV group {}: a prompt under way has a query that is to choose pages, nothing "
              "else has one",
              what, group.info.id);
    }
    for (size_t l = 0; l < group.lanes.size(); ++l) {
      group.lanes[l].check_image(
          from.lanes[l], from.position, p,
          what + ": lane " + std::to_string(l) + " of KV group " + std::to_string(group.info.id));
    }
  }
  try {
    for (const Group& group : groups_) {
      const CacheImage::Group& from = image.groups[static_cast<size_t>(group.info.id)];
      for (size_t l = 0; l < group.lanes.size(); ++l) {
        group.lanes[l].reserve_image(pool_, from.lanes[l]);
      }
    }
  } catch (...) {
    release_reserve();
    throw;
  }
  for (Group& group : groups_) {
    const CacheImage::Group& from = image.groups[static_cast<size_t>(group.info.id)];
    group.position = from.position;
    group.acted = from.acted;
    group.probes.reset();
    if (from.probe_end > 0) group.probes.emplace(*options_.zip, from.probe_begin, from.probe_end);
    group.probes_from = from.probe_from;
    for (size_t l = 0; l < group.lanes.size(); ++l) group.lanes[l].load(from.lanes[l]);
    recount(group);
  }
  release_reserve();
}

void SequenceCache::swap_out() {
  ASHLAR_CHECK(!swapped_out());
  swapped_ = image();
  for (Group& group : groups_) {
    group.lanes.clear();
    if (group.cached) add_lanes(group);
    recount(group);
  }
}

void SequenceCache::swap_in() {
  ASHLAR_CHECK(swapped_out());
  load(*swapped_, "a sequence's cache that was swapped out");
  swapped_.reset();
}

}  // namespace ashlar
