#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/cache/cache_schedule.h"
#include "engine/policy/policy_options.h"

// Options with one field changed: for whatever must know all of them. Nothing here compiles when a
// field is added; name it, and tests change it too.

namespace ashlar::test {

inline auto fields_of(CacheOptions& options) {
  auto& [key_codec, value_codec, page_rows, precise_sinks, residual, max_bytes, zip] = options;
  return std::tie(key_codec, value_codec, page_rows, precise_sinks, residual, max_bytes, zip);
}
inline auto fields_of(PolicyOptions& options) {
  auto& [name, budget, sink, recent, window, pool, pool_rows, drop, layers, seed, by_age, crush,
         page_rows, topk, digest, dense_groups, select_every] = options;
  return std::tie(name, budget, sink, recent, window, pool, pool_rows, drop, layers, seed, by_age,
                  crush, page_rows, topk, digest, dense_groups, select_every);
}

// Other values, which make sense for options of a text of some pages.
inline void change(CodecKind& codec) {
  codec = codec == CodecKind::kQ3 ? CodecKind::kQ2 : CodecKind::kQ3;
}
inline void change(PoolKind& pool) {
  pool = pool == PoolKind::kMax ? PoolKind::kAverage : PoolKind::kMax;
}
inline void change(int64_t& number) { number = number <= 0 ? 1 << 30 : number + 1; }
inline void change(bool& flag) { flag = !flag; }
inline void change(std::string& text) { text += "x"; }
inline void change(std::optional<uint64_t>& number) { number = number ? *number + 1 : 0; }

inline void change(std::optional<ZipOptions>& zip) {
  zip ? void(++zip->seed) : void(zip.emplace());
}
inline void change(std::optional<CrushOptions>& crush) {
  crush ? void(++crush->page) : void(crush.emplace());
}

/// One variant per field, in their order.
template <typename Options>
std::vector<Options> changed_options(const Options& options) {
  constexpr size_t kFields = std::tuple_size_v<decltype(fields_of(std::declval<Options&>()))>;
  std::vector<Options> out;
  [&]<size_t... I>(std::index_sequence<I...>) {
    (
        [&] {
          Options other = options;
          change(std::get<I>(fields_of(other)));
          out.push_back(std::move(other));
        }(),
        ...);
  }
  (std::make_index_sequence<kFields>{});
  return out;
}

}  // namespace ashlar::test
