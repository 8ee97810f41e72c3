#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/node.h"
#include "engine/cache/zip_options.h"
#include "kernels/codec.h"
#include "models/spec/spec.h"

namespace ashlar {

/// How the rows of a cache are stored. Where the value lies in the key (latent attention) the key's
/// codec stores both.
struct CacheOptions {
  CodecKind key_codec = CodecKind::kF16;
  CodecKind value_codec = CodecKind::kF16;
  int64_t page_rows = 16;     ///< P: rows per page and positions per encoding step
  int64_t precise_sinks = 0;  ///< the first rows of a text stay fp16; whole pages of them
  int64_t residual = 0;       ///< newest rows that are fp16 until others follow; whole pages
  int64_t max_bytes = 0;      ///< of one sequence's pages and tables; 0: no limit
  /// Set: rows of groups that last as long as the text and have no window wait in fp16 (the codec
  /// of both) until they become a segment of ZipCache (engine/cache/zip_store.h).
  std::optional<ZipOptions> zip = {};

  bool operator==(const CacheOptions&) const = default;
};

/// Throws Error(kRequest) for a value out of range, or precise rows beside a codec that is no
/// coarser than fp16 itself.
void validate(const CacheOptions& options);

/// All options that a cache's rows depend on, by name: what saved and shared rows belong to. A
/// limit changes no row, so it is not among them.
Node describe(const CacheOptions& options);

/// Where the rows below position p lie for the query at p, whatever the chunks, steps and batches:
///   [0, sinks)            fp16, once their page is complete
///   [sinks, coded(p))     the codec
///   [coded(p), complete)  fp16
///   [complete(p), p]      raw fp32
/// Under ZipCache no row is coded by its position: coded(p) is 0, and rows leave fp16 by segments.
/// A page of positions is complete when its last row is in; rows of it are encoded for every later
/// query. Rows are coded once; those kept in fp16 first are coded from there.
struct CacheSchedule {
  int64_t page_rows = 16;
  int64_t sinks = 0;     ///< a multiple of page_rows
  int64_t residual = 0;  ///< likewise
  int64_t release = 1;   ///< rows in front of a window go in multiples of this

  int64_t complete(int64_t p) const { return p / page_rows * page_rows; }
  int64_t coded(int64_t p) const { return std::max<int64_t>(0, complete(p) - residual); }
};

/// Whether `group` is stored in segments of ZipCache.
bool zips(const CacheOptions& options, const KvGroup& group);

/// The schedule of one KV group. Where a window forgets the first rows none of them stays precise.
CacheSchedule schedule_of(const CacheOptions& options, bool windowed);

}  // namespace ashlar
