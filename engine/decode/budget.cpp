#include "engine/decode/budget.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

struct Amount {
  double value = 0;
  std::string unit;
};

Amount parse_amount(const std::string& text) {
  Amount amount;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, amount.value);
  require(error == std::errc{} && std::isfinite(amount.value) && amount.value > 0 &&
              amount.value < 1e15,
          ErrorCode::kRequest,
          "--kv-budget: '{}' is no positive amount of tokens, percent (25%) or bytes (64KiB, 1MiB)",
          text);
  amount.unit.assign(stop, end);
  return amount;
}

// Bytes of one encoded row of all heads.
int64_t row_bytes(const KvGroup& group, const CacheOptions& cache) {
  int64_t vector = codec_vector_bytes(cache.key_codec, group.key_dim);
  if (!group.value_in_key) vector += codec_vector_bytes(cache.value_codec, group.value_dim);
  return group.heads * vector;
}

// The most pages a group with a window holds between steps: the rows a query sees, and in front of
// them less than a tile that is released as a whole; rows of an incomplete page are raw.
int64_t window_pages(const KvGroup& group, const ModelSpec& spec) {
  const int64_t text = ceil_div(spec.context_length, group.entry_tokens) + 1;  // and a marker
  return std::min(group.window - 1 + kAttentionTile - 1, text) / kPageRows;
}

// Rows that `bytes` buy: each lane keeps one raw fp32 page, the rest holds encoded pages. Groups
// with a window take what they need first.
int64_t rows_for_bytes(double bytes, const std::string& text, const ModelSpec& spec,
                       const CacheOptions& cache) {
  int64_t page = 0, raw = 0, windows = 0;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    raw += kPageRows * group.heads * 4 * group.entry_width();
    const int64_t own = kPageRows * row_bytes(group, cache);
    if (group.window > 0) {
      windows += window_pages(group, spec) * own;
    } else {
      page += own;
    }
  }
  // Rows come in as raw ones and leave holes, so one page may be open beside the full ones.
  const double pages =
      std::floor((bytes - static_cast<double>(raw + windows)) / static_cast<double>(page));
  require(pages >= 1, ErrorCode::kRequest,
          "--kv-budget {}: smaller than one raw and one encoded page of every KV group and the "
          "windows, which are {} bytes",
          text, raw + windows + page);
  require(pages < 1e12, ErrorCode::kRequest, "--kv-budget {}: larger than any cache", text);
  return static_cast<int64_t>(pages) * kPageRows;
}

bool governs_something(const ModelSpec& spec) {
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime == KvLifetime::kSequence && group.window == 0) return true;
  }
  return false;
}

}  // namespace

CacheOptions cache_options(const std::string& codec, const std::string& key_fallback,
                           const std::string& value_fallback) {
  std::string key = key_fallback, value = value_fallback;
  if (!codec.empty()) {
    const size_t colon = codec.find(':');
    key = codec.substr(0, colon);
    value = colon == std::string::npos ? key : codec.substr(colon + 1);
  }
  return {codec_from_name(key), codec_from_name(value)};
}

double cache_bytes_per_token(const ModelSpec& spec, const CacheOptions& cache) {
  double total = 0;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    total += static_cast<double>(row_bytes(group, cache)) / static_cast<double>(group.entry_tokens);
  }
  return total;
}

PolicyOptions policy_options(const CacheRequest& request, const ModelSpec& spec,
                             const CacheOptions& cache, int64_t text_tokens) {
  PolicyOptions options;
  options.name = request.policy;
  const int64_t length = spec.block_length();
  const auto rows = [length](int64_t tokens) {
    return tokens < 0 ? tokens : ceil_div(tokens, length);
  };
  options.sink = rows(request.sink);
  options.recent = rows(request.recent);
  if (request.policy == "none") {
    require(request.budget.empty(), ErrorCode::kRequest,
            "--kv-budget {}: needs a --kv-policy that evicts", request.budget);
    return options;
  }
  require(!request.budget.empty(), ErrorCode::kRequest, "--kv-policy {}: needs a --kv-budget",
          request.policy);
  require(
      governs_something(spec), ErrorCode::kRequest,
      "--kv-policy {}: every layer of this model has a window, which bounds its cache: there is "
      "nothing to evict",
      request.policy);
  const Amount amount = parse_amount(request.budget);
  if (amount.unit.empty() || amount.unit == "%") {
    const double tokens =
        amount.unit.empty() ? amount.value : amount.value / 100 * static_cast<double>(text_tokens);
    require(tokens < 1e12, ErrorCode::kRequest, "--kv-budget {}: larger than any context",
            request.budget);
    options.budget = rows(static_cast<int64_t>(std::ceil(tokens)));
    return options;
  }
  const bool known =
      amount.unit == "B" || amount.unit == "KiB" || amount.unit == "MiB" || amount.unit == "GiB";
  require(known, ErrorCode::kRequest,
          "--kv-budget: unknown unit '{}' (use none for tokens, %, B, KiB, MiB, GiB)", amount.unit);
  const double unit = amount.unit == "B"     ? 1
                      : amount.unit == "KiB" ? 1024.0
                      : amount.unit == "MiB" ? 1048576.0
                                             : 1073741824.0;
  options.budget = rows_for_bytes(amount.value * unit, request.budget, spec, cache);
  return options;
}

}  // namespace ashlar
