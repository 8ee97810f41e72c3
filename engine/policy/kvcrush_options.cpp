#include "engine/policy/kvcrush_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

template <typename Value>
struct Name {
  const char* name;
  Value value;
};

constexpr Name<CrushScorer> kScorers[] = {{"snapkv", CrushScorer::kSnapKv},
                                          {"h2o", CrushScorer::kH2o},
                                          {"scissorhands", CrushScorer::kScissorhands}};
constexpr Name<CrushAnchor> kAnchors[] = {
    {"zeros", CrushAnchor::kZeros},         {"ones", CrushAnchor::kOnes},
    {"mean", CrushAnchor::kMean},           {"inverse-mean", CrushAnchor::kInverseMean},
    {"alternate", CrushAnchor::kAlternate}, {"random", CrushAnchor::kRandom}};
constexpr Name<CrushFeature> kFeatures[] = {{"head", CrushFeature::kHeadBits},
                                            {"page", CrushFeature::kPageBits}};

template <typename Value>
std::string names_of(std::span<const Name<Value>> names) {
  std::vector<std::string> out;
  for (const auto& one : names) out.emplace_back(one.name);
  return fmt::format("{}", fmt::join(out, ", "));
}

template <typename Value>
Value value_of(std::span<const Name<Value>> names, std::string_view key, std::string_view text) {
  for (const auto& one : names) {
    if (text == one.name) return one.value;
  }
  fail(ErrorCode::kRequest, "--kv-crush {}={}: is not one of {}", key, text, names_of(names));
}

template <typename Value>
std::string name_of(std::span<const Name<Value>> names, Value value) {
  for (const auto& one : names) {
    if (one.value == value) return one.name;
  }
  fail(ErrorCode::kInternal, "kvcrush: an option without a name");
}

template <typename Number>
Number number_of(std::string_view key, std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  require(error == std::errc{} && stop == end, ErrorCode::kRequest,
          "--kv-crush {}={}: is no number", key, text);
  return number;
}

void read_item(std::string_view key, std::string_view text, int64_t block_length,
               CrushOptions& out) {
  if (key == "scorer") {
    out.scorer = value_of<CrushScorer>(kScorers, key, text);
  } else if (key == "anchor") {
    out.anchor = value_of<CrushAnchor>(kAnchors, key, text);
  } else if (key == "features") {
    out.features = value_of<CrushFeature>(kFeatures, key, text);
  } else if (key == "ratio") {
    out.ratio = number_of<double>(key, text);
  } else if (key == "page") {
    const auto tokens = number_of<int64_t>(key, text);
    require(tokens >= 1, ErrorCode::kRequest, "--kv-crush page={}: needs at least one token", text);
    out.page = ceil_div(tokens, block_length);
  } else {
    fail(ErrorCode::kRequest,
         "--kv-crush: '{}' is not one of scorer, ratio, anchor, features, page (as in ratio=0.5)",
         key);
  }
}

}  // namespace

CrushOptions read_crush(const std::string& text, int64_t block_length) {
  CrushOptions out;
  std::vector<std::string_view> seen;
  const std::string_view whole = text;
  for (size_t at = 0; at <= whole.size();) {
    const size_t end = std::min(whole.find(',', at), whole.size());
    const std::string_view item = whole.substr(at, end - at);
    const size_t equals = std::min(item.find('='), item.size());
    const std::string_view key = item.substr(0, equals);
    for (const std::string_view other : seen) {
      require(other != key, ErrorCode::kRequest, "--kv-crush: {} is given twice", key);
    }
    seen.push_back(key);
    read_item(key, item.substr(std::min(equals + 1, item.size())), block_length, out);
    at = end + 1;
  }
  return out;
}

std::string write_crush(const CrushOptions& o) {
  return fmt::format("scorer={},ratio={},anchor={},features={},page={}",
                     name_of<CrushScorer>(kScorers, o.scorer), o.ratio,
                     name_of<CrushAnchor>(kAnchors, o.anchor),
                     name_of<CrushFeature>(kFeatures, o.features), o.page);
}

std::string crush_help() {
  return fmt::format(
      "What kvcrush does, as in {}: scorer ({}), ratio of representatives, anchor ({}), "
      "features ({}), page in tokens; the defaults are {}",
      "scorer=snapkv,ratio=0.5,page=16", names_of<CrushScorer>(kScorers),
      names_of<CrushAnchor>(kAnchors), names_of<CrushFeature>(kFeatures), write_crush({}));
}

}  // namespace ashlar
