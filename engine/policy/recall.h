#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/kv_features.h"

namespace ashlar {

/// What a policy asks of the cache that keeps all filled pages in a backup and some of them
/// resident, where attention reads them.
struct RecallNeeds {
  int64_t page_rows = 16;  ///< P of the cache that it was made for
  DigestKind digest = DigestKind::kCuboidMean;
  int64_t digest_rows = 16;  ///< rows of one digest, which divide a page
  int64_t exempt = 0;        ///< governed groups, by place, whose first so many keep every page

  bool operator==(const RecallNeeds&) const = default;
};

/// The pages of one lane as a policy sees them when a query is known: page n holds rows n·P to
/// n·P + P − 1 of the text. The rows behind the last filled page are always resident.
struct PagesView {
  int64_t place = 0;        ///< of the group among the governed ones
  int64_t query = 0;        ///< position of the query, whose own row is the newest
  bool prompt_end = false;  ///< the last row of a prompt; else a decoded row, before its attention
  int64_t pages = 0;        ///< filled ones
  std::span<const int32_t> resident = {};  ///< those attention reads, ascending
  /// What the digests promise of each filled page: the mean over the lane's query heads of the
  /// estimated max q·k, without 1/√d.
  std::span<const float> scores = {};
};

/// Names on the command line: cuboid_max cuboid_center cuboid_mean sphere_max sphere_center
/// sphere_mean.
std::string_view digest_name(DigestKind kind);
/// Throws Error(kRequest) listing the known names.
DigestKind digest_from_name(std::string_view name);

}  // namespace ashlar
