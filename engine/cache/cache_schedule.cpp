#include "engine/cache/cache_schedule.h"

#include <numeric>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "kernels/attention.h"

namespace ashlar {
namespace {

// Longer than any text.
constexpr int64_t kNeverCoded = int64_t{1} << 40;

}  // namespace

void validate(const CacheOptions& o) {
  require(o.page_rows >= 1 && o.page_rows <= 4096, ErrorCode::kRequest,
          "KV cache: pages of {0} rows (--kv-page-rows {0}: a page has 1 to 4096)", o.page_rows);
  require(o.precise_sinks >= 0 && o.residual >= 0, ErrorCode::kRequest,
          "KV cache: {} precise first rows and {} precise newest rows must not be negative",
          o.precise_sinks, o.residual);
  require(o.max_bytes >= 0, ErrorCode::kRequest, "KV cache: a limit of {} bytes is negative",
          o.max_bytes);
  if (o.zip) {
    validate(*o.zip);
    require(
        o.precise_sinks == 0 && o.residual == 0, ErrorCode::kRequest,
        "KV cache: zipcache keeps the newest rows in fp16 by its own rule (--kv-zip every=…) and "
        "no others: leave --kv-fp16-first and --kv-fp16-newest out");
    require(o.key_codec == CodecKind::kF16 && o.value_codec == CodecKind::kF16, ErrorCode::kRequest,
            "KV cache: rows wait for zipcache in fp16, not in {} and {}", codec_name(o.key_codec),
            codec_name(o.value_codec));
  }
  if (o.precise_sinks == 0 && o.residual == 0) return;
  for (const CodecKind codec : {o.key_codec, o.value_codec}) {
    require(
        codec_vector_bytes(codec, 64) < codec_vector_bytes(CodecKind::kF16, 64),
        ErrorCode::kRequest,
        "KV cache: rows kept in fp16 beside the codec {} would be stored no more precisely; use "
        "q8, q4, q3 or q2 for keys and values",
        codec_name(codec));
  }
}

Node describe(const CacheOptions& options) {
  // Does not compile when there is another option: say here whether rows depend on it.
  const auto& [key_codec, value_codec, page_rows, precise_sinks, residual, max_bytes, zip] =
      options;
  Node node = Node::Map{{"key_codec", codec_name(key_codec)},
                        {"value_codec", codec_name(value_codec)},
                        {"page_rows", page_rows},
                        {"precise_sinks", precise_sinks},
                        {"residual", residual}};
  if (zip) node.set("zip", write_zip(*zip));
  return node;
}

CacheSchedule schedule_of(const CacheOptions& o, bool windowed) {
  if (o.zip && !windowed) return {o.page_rows, 0, kNeverCoded};
  return {o.page_rows, windowed ? 0 : round_up(o.precise_sinks, o.page_rows),
          round_up(o.residual, o.page_rows),
          std::lcm(attention_unit(o.key_codec, o.value_codec), o.page_rows)};
}

bool zips(const CacheOptions& options, const KvGroup& group) {
  return options.zip && group.lifetime == KvLifetime::kSequence && group.window == 0;
}

}  // namespace ashlar
