#include <charconv>

#include "core/base/error.h"
#include "train/dist/launch.h"

// Slurm's compressed host lists: names separated by commas, each with any number of brackets that
// hold numbers and ranges; leading zeros give the width ("n[08-10]" is n08, n09, n10).

namespace ashlar {
namespace {

constexpr size_t kMostHosts = 1 << 20;

[[noreturn]] void malformed(std::string_view list, std::string_view reason) {
  fail(ErrorCode::kRequest, "SLURM_JOB_NODELIST is \"{}\": {}; set MASTER_ADDR to rank 0's host",
       list, reason);
}

int64_t number(std::string_view text, std::string_view list) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value < 0) {
    malformed(list, "a bracket holds something else than numbers and ranges");
  }
  return value;
}

std::vector<std::string_view> split(std::string_view text, std::string_view list) {
  std::vector<std::string_view> parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || (text[i] == ',' && depth == 0)) {
      parts.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    } else if (text[i] == '[') {
      ++depth;
    } else if (text[i] == ']') {
      --depth;
    }
    if (depth < 0 || depth > 1) malformed(list, "its brackets do not match");
  }
  if (depth != 0) malformed(list, "its brackets do not match");
  return parts;
}

std::vector<std::string> bracket_values(std::string_view inside, std::string_view list) {
  std::vector<std::string> values;
  for (const std::string_view part : split(inside, list)) {
    const size_t dash = part.find('-');
    const std::string_view low = part.substr(0, dash);
    const std::string_view high = dash == std::string_view::npos ? low : part.substr(dash + 1);
    const int64_t first = number(low, list), last = number(high, list);
    if (last < first || static_cast<size_t>(last - first) >= kMostHosts) {
      malformed(list, "a range runs backwards or is too long");
    }
    for (int64_t i = first; i <= last; ++i) values.push_back(fmt::format("{:0{}}", i, low.size()));
  }
  return values;
}

}  // namespace

std::vector<std::string> expand_slurm_hosts(std::string_view list) {
  std::vector<std::string> hosts;
  for (std::string_view part : split(list, list)) {
    std::vector<std::string> names = {""};
    while (!part.empty()) {
      const size_t open = part.find('[');
      for (std::string& name : names) name += part.substr(0, open);
      if (open == std::string_view::npos) break;
      const size_t close = part.find(']', open);
      const auto values = bracket_values(part.substr(open + 1, close - open - 1), list);
      if (names.size() * values.size() > kMostHosts) malformed(list, "it names too many hosts");
      std::vector<std::string> longer;
      for (const std::string& name : names) {
        for (const std::string& value : values) longer.push_back(name + value);
      }
      names = std::move(longer);
      part = part.substr(close + 1);
    }
    for (std::string& name : names) {
      if (name.empty()) malformed(list, "a host has no name");
      hosts.push_back(std::move(name));
    }
  }
  return hosts;
}

}  // namespace ashlar
