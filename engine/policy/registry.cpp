#include <fmt/ranges.h>

#include <algorithm>

#include "core/base/error.h"
#include "engine/policy/policy.h"

namespace ashlar {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Policy> (*make)(const PolicyOptions&);
};

constexpr Entry kRegistry[] = {{"streaming", make_streaming}, {"h2o", make_h2o}};

}  // namespace

std::vector<std::string> policy_names() {
  std::vector<std::string> names = {"none"};
  for (const Entry& entry : kRegistry) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Policy> make_policy(const PolicyOptions& options) {
  if (options.name == "none") return nullptr;
  for (const Entry& entry : kRegistry) {
    if (options.name != entry.name) continue;
    require(options.budget >= 1, ErrorCode::kRequest,
            "--kv-policy {}: needs a positive --kv-budget, not {}", options.name, options.budget);
    require(options.sink >= 0 && options.recent >= -1, ErrorCode::kRequest,
            "--kv-policy {}: sink {} and recent {} must not be negative", options.name,
            options.sink, options.recent);
    const int64_t recent = std::max<int64_t>(options.recent, 1);
    require(options.sink <= options.budget && recent <= options.budget - options.sink,
            ErrorCode::kRequest,
            "--kv-policy {}: budget of {} rows is smaller than sink + recent = {} + {}",
            options.name, options.budget, options.sink, recent);
    return entry.make(options);
  }
  fail(ErrorCode::kRequest, "--kv-policy: '{}' is not one of {}", options.name,
       fmt::join(policy_names(), ", "));
}

}  // namespace ashlar
