#pragma once

#include <string>

#include "engine/cache/sequence_cache.h"
#include "models/spec/spec.h"

namespace ashlar {

/// What the command line says about the cache: codec names (`q4` or `q4:q8` for keys and values), a
/// policy and a budget in tokens ("256"), percent of the text ("25%") or bytes ("64KiB", "1MiB").
struct CacheRequest {
  std::string codec;
  std::string policy = "none";
  std::string budget;   ///< empty: none
  int64_t sink = 4;     ///< tokens
  int64_t recent = -1;  ///< tokens; −1: the policy's default
};

/// Codecs of a request, or `fallback` where it names none. Throws Error(kRequest).
CacheOptions cache_options(const std::string& codec, const std::string& key_fallback,
                           const std::string& value_fallback);

/// Bytes one text token costs in the caches of lifetime "sequence", codec parameters included. Rows
/// of groups with a window count in full, though a long text keeps only the newest of them.
double cache_bytes_per_token(const ModelSpec& spec, const CacheOptions& cache);

/// The request in rows of the governed stack: ⌈tokens / L_B⌉; bytes buy the pages of groups with a
/// window, one raw page per lane and whole encoded pages of all governed groups. `text_tokens` is
/// the length that percents refer to (prompt and what may be generated). Throws Error(kRequest) for
/// a malformed or missing budget, a budget without a policy, or a policy where every group has a
/// window.
PolicyOptions policy_options(const CacheRequest& request, const ModelSpec& spec,
                             const CacheOptions& cache, int64_t text_tokens);

}  // namespace ashlar
