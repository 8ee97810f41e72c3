#include "train/dist/unit_layout.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {

UnitLayout::Range UnitLayout::slice(int64_t shard, int64_t shards) const {
  ASHLAR_CHECK(shard >= 0 && shard < shards && size % shards == 0);
  const int64_t each = size / shards;
  return {shard * each, (shard + 1) * each};
}

std::vector<UnitLayout::Piece> UnitLayout::pieces(Range range) const {
  std::vector<Piece> out;
  for (const Part& part : parts) {
    const int64_t begin = std::max(range.begin, part.offset);
    const int64_t end = std::min(range.end, part.offset + part.numel);
    if (begin >= end) continue;
    out.push_back({part.parameter, begin - part.offset, end - begin, begin - range.begin});
  }
  return out;
}

UnitLayout make_unit_layout(std::string name,
                            std::span<const std::pair<size_t, int64_t>> parameters,
                            int64_t shards) {
  ASHLAR_CHECK(shards >= 1);
  UnitLayout out;
  out.name = std::move(name);
  int64_t at = 0;
  for (const auto& [parameter, numel] : parameters) {
    out.parts.push_back({parameter, at, numel});
    at = round_up(at + numel, kUnitAlignment);
  }
  out.size = round_up(at, kUnitBlock * shards);
  return out;
}

}  // namespace ashlar
