#include "engine/decode/budget.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/lane_scores.h"
#include "engine/cache/tables.h"
#include "engine/policy/oracle.h"

namespace ashlar {
namespace {

constexpr const char* kZipName = "zipcache";

struct Amount {
  double value = 0;
  std::string unit;
};

// A positive number and what follows it.
std::optional<Amount> amount_of(const std::string& text) {
  Amount amount;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, amount.value);
  const bool ok = error == std::errc{} && std::isfinite(amount.value) && amount.value > 0 &&
                  amount.value < 1e15;
  if (!ok) return std::nullopt;
  amount.unit.assign(stop, end);
  return amount;
}

std::optional<double> bytes_of(const Amount& amount, std::string_view default_unit = "") {
  const std::string_view unit = amount.unit.empty() ? default_unit : amount.unit;
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"B", 1}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
  for (const auto& [name, bytes] : kUnits) {
    if (unit == name) return amount.value * bytes;
  }
  return std::nullopt;
}

// Bytes of one encoded row of all heads.
int64_t row_bytes(const KvGroup& group, const CacheOptions& cache) {
  int64_t vector = codec_vector_bytes(cache.key_codec, group.key_dim);
  if (!group.value_in_key) vector += codec_vector_bytes(cache.value_codec, group.value_dim);
  return group.heads * vector;
}

// Likewise under ZipCache, in segments of the fewest rows, by the nearest share.
double zip_row_bytes(const KvGroup& group, const ZipOptions& zip) {
  const ZipShape shape{group.key_dim, group.value_dim};
  const auto bytes = [&](CodecKind set) {
    return static_cast<double>(kv_page_bytes(zip_page(shape, set, 1)));
  };
  const double rows = static_cast<double>(zip.every);
  const double salient = static_cast<double>(salient_rows(zip, zip.every)) / rows;
  return static_cast<double>(group.heads) *
         (salient * bytes(kZipSalient) + (1 - salient) * bytes(kZipRegular) +
          static_cast<double>(zip_parameter_bytes(shape)) / rows);
}

int64_t row_bytes(const KvGroup& group, const CacheOptions& cache, CodecKind both) {
  CacheOptions options = cache;
  options.key_codec = options.value_codec = both;
  return row_bytes(group, options);
}

// The most pages a group with a window holds between steps: the rows a query sees, and in front of
// them less than what is released as a whole; rows of an incomplete page are raw.
int64_t window_pages(const KvGroup& group, const ModelSpec& spec, const CacheSchedule& schedule) {
  const int64_t text = ceil_div(spec.context_length, group.entry_tokens) + 1;  // and a marker
  return std::min(group.window - 1 + schedule.release - 1, text) / schedule.page_rows;
}

// What a sequence takes at most that keeps `pages` pages of rows: encoded pages and a raw one, what
// stays fp16, positions, scores and page tables, digests of a text of `text` rows.
double bytes_for_pages(const ModelSpec& spec, const CacheOptions& cache, const Policy& policy,
                       int64_t pages, int64_t text) {
  double total = 0;
  const int64_t p = cache.page_rows;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    const bool windowed = group.window > 0;
    const CacheSchedule schedule = schedule_of(cache, windowed);
    // Rows come in as raw ones and leave holes, so one page may be open beside the full ones.
    const int64_t held = windowed ? window_pages(group, spec, schedule) : pages;
    const int64_t precise = std::min(held, (schedule.sinks + schedule.residual) / p);
    const int64_t own = row_bytes(group, cache), fp16 = row_bytes(group, cache, CodecKind::kF16);
    total += static_cast<double>(p) * static_cast<double>(held * own + precise * (fp16 - own)) +
             static_cast<double>(p * group.heads * 4 * group.entry_width());
    const int64_t lanes = !windowed && policy.needs().per_head ? group.heads : 1;
    const int64_t scores =
        windowed ? 0 : lanes * ScoreKind(policy.needs()).tables(group.heads / lanes);
    const double rows = static_cast<double>(round_up((held + 1) * p, kTableRows));
    const double entries = static_cast<double>(round_up(held + 1, kTablePages));
    if (!windowed && policy.needs().recall) {
      const PageRecall recall(*policy.needs().recall,
                              {cache.key_codec, cache.value_codec, group.heads, group.key_dim,
                               group.value_dim, group.value_in_key, p},
                              nullptr);
      total += static_cast<double>(recall.tables_of(text / p));
    }
    total += 4 * rows * static_cast<double>(lanes + scores) +
             entries * static_cast<double>(lanes * (sizeof(PageId) + sizeof(void*)));
  }
  return total;
}

// Rows that `bytes` buy.
int64_t rows_for_bytes(double bytes, const std::string& text, const ModelSpec& spec,
                       const CacheOptions& cache, const PolicyOptions& options, int64_t text_rows) {
  require(
      options.layers.empty() && options.name != "pyramidkv" && options.dense_groups == 0,
      ErrorCode::kRequest,
      "--kv-budget {}: bytes buy the same rows in every layer; where layers differ, give tokens "
      "or percent",
      text);
  PolicyOptions wide = options;
  wide.budget = INT32_MAX;
  // What an oracle's lanes take does not depend on what it knows.
  const std::unique_ptr<Policy> policy = options.name == "oracle"
                                             ? make_oracle(wide, kv_groups(spec), nothing_to_come())
                                             : make_policy(wide, kv_groups(spec));
  const auto fits = [&](int64_t pages) {
    return bytes_for_pages(spec, cache, *policy, pages, text_rows) <= bytes;
  };
  require(fits(1), ErrorCode::kRequest,
          "--kv-budget {}: smaller than one raw and one encoded page of every KV group, the "
          "windows, their tables and digests, which are {:.0f} bytes",
          text, bytes_for_pages(spec, cache, *policy, 1, text_rows));
  int64_t low = 1, high = INT32_MAX / cache.page_rows;
  require(!fits(high), ErrorCode::kRequest, "--kv-budget {}: larger than any cache", text);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low * cache.page_rows;
}

// "max:7"
void read_pool(const std::string& text, PolicyOptions& options) {
  if (text.empty()) return;
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string kind = text.substr(0, colon);
  options.pool = kind == "none"  ? PoolKind::kNone
                 : kind == "avg" ? PoolKind::kAverage
                 : kind == "max" ? PoolKind::kMax
                                 : PoolKind::kDefault;
  bool ok = options.pool != PoolKind::kDefault;
  if (colon < text.size()) {
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, options.pool_rows);
    ok = ok && error == std::errc{} && stop == end && options.pool_rows >= 1;
  }
  require(ok, ErrorCode::kRequest,
          "--kv-pool: '{}' is not none, avg or max, or one of the latter with rows (max:7)", text);
}

// Tokens or percent of the budget, in rows; at least one.
void read_drop(const std::string& text, int64_t block_length, PolicyOptions& options) {
  if (text.empty()) return;
  const std::optional<Amount> amount = amount_of(text);
  const bool percent = amount && amount->unit == "%";
  require(amount && (percent || amount->unit.empty()) && amount->value < 1e12 &&
              (!percent || amount->value <= 100),
          ErrorCode::kRequest,
          "--kv-drop: '{}' is no positive number of tokens or percent of the budget (50%)", text);
  const double rows = percent ? amount->value / 100 * static_cast<double>(options.budget)
                              : std::ceil(amount->value / static_cast<double>(block_length));
  options.drop = std::max<int64_t>(1, static_cast<int64_t>(rows));
}

// The budget in rows of the governed stack.
int64_t read_budget(const CacheRequest& request, const ModelSpec& spec, const CacheOptions& cache,
                    const PolicyOptions& options, int64_t text_tokens) {
  const std::optional<Amount> amount = amount_of(request.budget);
  require(amount.has_value(), ErrorCode::kRequest,
          "--kv-budget: '{}' is no positive amount of tokens, percent (25%) or bytes (64KiB, 1MiB)",
          request.budget);
  if (amount->unit.empty() || amount->unit == "%") {
    const double tokens = amount->unit.empty()
                              ? amount->value
                              : amount->value / 100 * static_cast<double>(text_tokens);
    require(tokens < 1e12, ErrorCode::kRequest, "--kv-budget {}: larger than any context",
            request.budget);
    return ceil_div(static_cast<int64_t>(std::ceil(tokens)), spec.block_length());
  }
  const std::optional<double> bytes = bytes_of(*amount);
  require(bytes.has_value(), ErrorCode::kRequest,
          "--kv-budget: unknown unit '{}' (use none for tokens, %, B, KiB, MiB, GiB)",
          amount->unit);
  const int64_t text_rows = ceil_div(text_tokens, spec.block_length()) + 1;  // and a marker
  return rows_for_bytes(*bytes, request.budget, spec, cache, options, text_rows);
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
  if (key != kZipName && value != kZipName) return {codec_from_name(key), codec_from_name(value)};
  require(key == value, ErrorCode::kRequest,
          "--kv-codec {}:{}: zipcache ranks rows and stores key and value of a row alike: give "
          "zipcache for both",
          key, value);
  CacheOptions options;
  options.zip.emplace();
  return options;
}

CodecNames codec_names(const CacheOptions& options) {
  if (options.zip) return {kZipName, kZipName};
  return {std::string(codec_name(options.key_codec)), std::string(codec_name(options.value_codec))};
}

int64_t parse_bytes(const std::string& option, const std::string& text) {
  const std::optional<Amount> amount = amount_of(text);
  const std::optional<double> bytes = amount ? bytes_of(*amount, "B") : std::nullopt;
  require(bytes.has_value() && *bytes >= 1 && *bytes < 1e18, ErrorCode::kRequest,
          "{}: '{}' is no positive number of bytes (4096, 64KiB, 1.5GiB)", option, text);
  return static_cast<int64_t>(*bytes);
}

CacheOptions cache_options(const CacheRequest& request, const ModelSpec& spec,
                           const std::string& key_fallback, const std::string& value_fallback) {
  CacheOptions options = cache_options(request.codec, key_fallback, value_fallback);
  for (const int64_t tokens : {request.fp16_first, request.fp16_newest}) {
    require(tokens >= 0, ErrorCode::kRequest,
            "--kv-fp16-first and --kv-fp16-newest: {} tokens are negative", tokens);
  }
  require(options.zip || request.zip.empty(), ErrorCode::kRequest,
          "--kv-zip {}: only the codec zipcache uses it", request.zip);
  if (options.zip) options.zip = read_zip(request.zip, spec.block_length());
  options.page_rows = request.page_rows;
  options.precise_sinks = ceil_div(request.fp16_first, spec.block_length());
  options.residual = ceil_div(request.fp16_newest, spec.block_length());
  if (!request.limit.empty()) options.max_bytes = parse_bytes("--kv-limit", request.limit);
  validate(options);
  return options;
}

double cache_bytes_per_token(const ModelSpec& spec, const CacheOptions& cache) {
  double total = 0;
  for (const KvGroup& group : kv_groups(spec)) {
    if (group.lifetime != KvLifetime::kSequence) continue;
    const double bytes = zips(cache, group) ? zip_row_bytes(group, *cache.zip)
                                            : static_cast<double>(row_bytes(group, cache));
    total += bytes / static_cast<double>(group.entry_tokens);
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
  options.window = rows(request.window);
  options.layers = request.layers;
  options.seed = request.seed;
  options.by_age = request.by_age;
  if (!request.crush.empty()) options.crush = read_crush(request.crush, length);
  options.page_rows = cache.page_rows;
  options.topk = rows(request.topk);
  options.digest = request.digest;
  options.dense_groups = request.dense_layers;
  options.select_every = request.select_every;
  read_pool(request.pool, options);
  if (request.policy == "none") {
    require(request.budget.empty(), ErrorCode::kRequest,
            "--kv-budget {}: needs a --kv-policy that evicts", request.budget);
    read_drop(request.drop, length, options);
    return options;
  }
  require(!request.budget.empty(), ErrorCode::kRequest, "--kv-policy {}: needs a --kv-budget",
          request.policy);
  require(
      governs_something(spec), ErrorCode::kRequest,
      "--kv-policy {}: every layer of this model has a window, which bounds its cache: there is "
      "nothing to evict",
      request.policy);
  options.budget = read_budget(request, spec, cache, options, text_tokens);
  read_drop(request.drop, length, options);
  return options;
}

}  // namespace ashlar
