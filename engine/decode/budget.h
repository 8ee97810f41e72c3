#pragma once

#include <optional>
#include <string>

#include "engine/cache/sequence_cache.h"
#include "models/spec/spec.h"

namespace ashlar {

/// What the command line says about the cache: codec names (`q4` or `q4:q8` for keys and values), a
/// policy and a budget in tokens ("256"), percent of the text ("25%") or bytes ("64KiB", "1MiB").
struct CacheRequest {
  std::string codec;
  std::string policy = "none";
  std::string budget;       ///< empty: none
  int64_t sink = 4;         ///< tokens
  int64_t recent = -1;      ///< tokens; −1: the policy's default
  int64_t fp16_first = 0;   ///< tokens at the beginning that stay fp16
  int64_t fp16_newest = 0;  ///< newest tokens that are fp16 until others follow
  std::string limit = {};   ///< bytes of one text's cache ("64MiB"); empty: none
  int64_t page_rows = CacheOptions{}.page_rows;  ///< rows of the cache in a page
  // What some policies take beside budget, sink and recent (PolicyOptions).
  int64_t window = -1;                ///< tokens whose queries score; −1: the policy's default
  std::string pool = {};              ///< "none", "avg" or "max", with rows as in "max:7"
  std::string drop = {};              ///< at once: tokens, or percent of the budget ("50%")
  std::string layers = {};            ///< PolicyOptions::layers
  std::optional<uint64_t> seed = {};  ///< of what is drawn
  bool by_age = false;                ///< counts are divided by the queries that could have counted
  std::string crush = {};             ///< read_crush(), pages in tokens; empty: kvcrush's defaults
  std::string zip = {};               ///< read_zip(), `every` in tokens; empty: zipcache's defaults
  // Policies that recall pages.
  int64_t topk = -1;  ///< tokens of the pages that a query must find; −1: the policy's default
  std::string digest = {};   ///< PolicyOptions::digest
  int64_t dense_layers = 0;  ///< first groups of layers that keep everything
  int64_t select_every = 1;  ///< rows that share one selection
};

/// A positive number of bytes ("4096", "64KiB", "1.5GiB"). Throws Error(kRequest) naming `option`.
int64_t parse_bytes(const std::string& option, const std::string& text);

/// Names of the codecs of keys and values, as the command line has them.
struct CodecNames {
  std::string key, value;
  std::string both() const { return key == value ? key : key + ":" + value; }
};
CodecNames codec_names(const CacheOptions& options);

/// Codecs of a request, or the fallbacks where it names none; "zipcache" is the codec of both, with
/// the default options for rows of one token. Throws Error(kRequest).
CacheOptions cache_options(const std::string& codec, const std::string& key_fallback,
                           const std::string& value_fallback);
/// The same with what else the request says, tokens as rows of `spec`'s governed stack.
CacheOptions cache_options(const CacheRequest& request, const ModelSpec& spec,
                           const std::string& key_fallback, const std::string& value_fallback);

/// Bytes one text token costs in the caches of lifetime "sequence", codec parameters included. Rows
/// of groups with a window count in full, though a long text keeps only the newest of them. Under
/// ZipCache in segments of `every` rows, the most that segments cost.
double cache_bytes_per_token(const ModelSpec& spec, const CacheOptions& cache);

/// The request in rows of the governed stack: ⌈tokens / L_B⌉; bytes buy the pages of groups with a
/// window, one raw page per lane, positions, scores and page tables, and whole encoded pages of all
/// governed groups, and of a policy that recalls the digests of such a
/// text. `text_tokens` is the length that percents refer to (prompt and what may be generated).
/// Throws Error(kRequest) for
/// a malformed or missing budget, a budget without a policy, a policy where every group has a
/// window, or a budget in bytes for budgets that differ between layers.
PolicyOptions policy_options(const CacheRequest& request, const ModelSpec& spec,
                             const CacheOptions& cache, int64_t text_tokens);

}  // namespace ashlar
