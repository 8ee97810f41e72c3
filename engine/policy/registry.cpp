#include <fmt/ranges.h>

#include <algorithm>

#include "core/base/error.h"
#include "engine/policy/policy.h"
#include "engine/policy/policy_uses.h"

namespace ashlar {

// One per policy source. `governed`: the groups that policies act on, by place.
using MakePolicy = std::unique_ptr<Policy>(const PolicyOptions& options,
                                           std::span<const KvGroup> governed);
MakePolicy make_streaming;
MakePolicy make_h2o;
MakePolicy make_scissorhands;
MakePolicy make_snapkv;
MakePolicy make_pyramidkv;
MakePolicy make_tova;
MakePolicy make_keydiff;
MakePolicy make_snapstream;
MakePolicy make_random;
MakePolicy make_kvcrush;
MakePolicy make_arkvale;

namespace {

struct Entry {
  const char* name;
  MakePolicy* make;
  unsigned uses;
};

constexpr Entry kRegistry[] = {
    {"streaming", make_streaming, kUsesNothing},
    {"h2o", make_h2o, kUsesDrop | kUsesLayers},
    {"scissorhands", make_scissorhands, kUsesWindow | kUsesDrop | kUsesLayers | kUsesAge},
    {"snapkv", make_snapkv, kUsesWindow | kUsesPool | kUsesLayers},
    {"pyramidkv", make_pyramidkv, kUsesWindow | kUsesPool | kUsesLayers},
    {"tova", make_tova, kUsesDrop | kUsesLayers},
    {"keydiff", make_keydiff, kUsesDrop | kUsesLayers},
    {"snapstream", make_snapstream, kUsesWindow | kUsesPool},
    {"kvcrush", make_kvcrush,
     kUsesWindow | kUsesDrop | kUsesLayers | kUsesSeed | kUsesAge | kUsesCrush},
    {"random", make_random, kUsesDrop | kUsesLayers | kUsesSeed},
    {"arkvale", make_arkvale, kUsesRecall},
};

void check_uses(const PolicyOptions& o, unsigned uses) {
  const auto refuse = [&](bool given, PolicyUses option, const char* name, const char* reason) {
    require(!given || (uses & option) != 0, ErrorCode::kRequest,
            "--kv-policy {}: {}: the policy {}", o.name, name, reason);
  };
  refuse(o.window != -1, kUsesWindow, "--kv-window", "looks at no window of query rows");
  refuse(o.pool != PoolKind::kDefault || o.pool_rows != -1, kUsesPool, "--kv-pool",
         "pools no scores");
  refuse(o.drop != -1, kUsesDrop, "--kv-drop", "has no number of rows to drop at once");
  refuse(!o.layers.empty(), kUsesLayers, "--kv-layers", "keeps as many rows in every layer");
  refuse(o.seed.has_value(), kUsesSeed, "--kv-seed", "draws nothing at random");
  refuse(o.by_age, kUsesAge, "--kv-by-age", "keeps no counts");
  refuse(o.crush.has_value(), kUsesCrush, "--kv-crush", "chooses no representatives");
  refuse(o.topk != -1, kUsesRecall, "--kv-topk", "recalls no pages");
  refuse(!o.digest.empty(), kUsesRecall, "--kv-digest", "recalls no pages");
  refuse(o.dense_groups != 0, kUsesRecall, "--kv-dense-layers", "recalls no pages");
  refuse(o.select_every != 1, kUsesRecall, "--kv-select-every", "recalls no pages");
}

void check_ranges(const PolicyOptions& o) {
  require(o.budget >= 1, ErrorCode::kRequest,
          "--kv-policy {}: needs a positive --kv-budget, not {}", o.name, o.budget);
  require(o.sink >= 0 && o.recent >= -1, ErrorCode::kRequest,
          "--kv-policy {}: sink {} and recent {} must not be negative", o.name, o.sink, o.recent);
  const int64_t recent = std::max<int64_t>(o.recent, 1);
  require(o.sink <= o.budget && recent <= o.budget - o.sink, ErrorCode::kRequest,
          "--kv-policy {}: budget of {} rows is smaller than sink + recent = {} + {}", o.name,
          o.budget, o.sink, recent);
  require(o.window == -1 || o.window >= 1, ErrorCode::kRequest,
          "--kv-policy {}: --kv-window {}: needs at least one query row", o.name, o.window);
  require(
      o.pool_rows == -1 || (o.pool_rows >= 1 && o.pool_rows % 2 == 1 && o.pool_rows <= 1023),
      ErrorCode::kRequest,
      "--kv-policy {}: --kv-pool of {} rows: use an odd number from 1 to 1023, so that a row is "
      "in the middle of its neighbours",
      o.name, o.pool_rows);
  require(o.drop == -1 || o.drop >= 1, ErrorCode::kRequest,
          "--kv-policy {}: --kv-drop {}: needs at least one row", o.name, o.drop);
}

}  // namespace

void check_policy_options(const PolicyOptions& options, unsigned uses) {
  check_uses(options, uses);
  check_ranges(options);
}

std::vector<KvGroup> governed_groups(std::span<const KvGroup> groups) {
  std::vector<KvGroup> out;
  for (const KvGroup& group : groups) {
    if (governs(group)) out.push_back(group);
  }
  return out;
}

std::vector<std::string> policy_names() {
  std::vector<std::string> names = {"none"};
  for (const Entry& entry : kRegistry) names.emplace_back(entry.name);
  return names;
}

std::unique_ptr<Policy> make_policy(const PolicyOptions& options, std::span<const KvGroup> groups) {
  if (options.name == "none") {
    check_uses(options, kUsesNothing);
    return nullptr;
  }
  for (const Entry& entry : kRegistry) {
    if (options.name != entry.name) continue;
    check_policy_options(options, entry.uses);
    return entry.make(options, governed_groups(groups));
  }
  require(options.name != "oracle", ErrorCode::kRequest,
          "--kv-policy oracle: needs the attention of queries to come, which a text being decoded "
          "does not have; `eval`, which reads its texts twice, knows it");
  fail(ErrorCode::kRequest, "--kv-policy: '{}' is not one of {}", options.name,
       fmt::join(policy_names(), ", "));
}

}  // namespace ashlar
