#include "cli/arm_options.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/log.h"

namespace ashlar::cli {
namespace {

void refuse_repeats(const char* option, const std::vector<std::string>& values) {
  for (auto value = values.begin(); value != values.end(); ++value) {
    require(std::find(values.begin(), value, *value) == value, ErrorCode::kRequest,
            "{}: {} is given twice", option, *value);
  }
}

// "a,b" "c" as a, b, c.
std::vector<std::string> listed(const char* option, const std::vector<std::string>& given) {
  std::vector<std::string> values;
  for (const std::string& text : given) {
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      values.push_back(text.substr(at, end - at));
      require(!values.back().empty(), ErrorCode::kRequest, "{}: '{}' lists an empty value", option,
              text);
      at = end + 1;
    }
  }
  return values;
}

double bytes_per_token(const CacheRequest& request, const ModelData& model) {
  return cache_bytes_per_token(
      model.spec, cache_options(request.codec, model.kv_codec.key, model.kv_codec.value));
}

// The arm without its policy and what is said to policies: how rows are stored.
CacheRequest without_policy(const CacheRequest& arm) {
  CacheRequest out;
  out.codec = arm.codec;
  out.fp16_first = arm.fp16_first;
  out.fp16_newest = arm.fp16_newest;
  out.limit = arm.limit;
  out.page_rows = arm.page_rows;
  return out;
}

// No policy and, of the arms' codecs, the one of most bytes.
CacheRequest full_cache(const std::vector<CacheRequest>& arms, const ModelData& model) {
  return without_policy(*std::ranges::max_element(
      arms, {}, [&](const CacheRequest& arm) { return bytes_per_token(arm, model); }));
}

}  // namespace

void add_engine_options(CLI::App* command, EngineArguments& arguments, ArmLists& lists) {
  const auto add = [&](const char* name, std::vector<std::string>& values, std::string help) {
    return command->add_option_function<std::vector<std::string>>(
        name,
        [name, &values](const std::vector<std::string>& given) { values = listed(name, given); },
        std::move(help) + "; one or several");
  };
  add("--kv-codec", lists.codecs, kCodecHelp);
  add("--kv-policy", lists.policies,
      policy_help() + ", and oracle, the ceiling, which reads each text twice")
      ->default_str(lists.policies.front());
  add("--kv-budget", lists.budgets, kBudgetHelp);
  add_other_engine_options(command, arguments);
}

bool ArmLists::evicts() const {
  return std::ranges::any_of(policies, [](const std::string& name) { return name != "none"; });
}

std::vector<CacheRequest> arms_of(const ArmLists& lists, const CacheRequest& common,
                                  const ModelData& model) {
  refuse_repeats("--kv-policy", lists.policies);
  refuse_repeats("--kv-budget", lists.budgets);
  refuse_repeats("--kv-codec", lists.codecs);
  // What is missing, or asked for in vain, is refused with the arm it belongs to.
  auto codecs = lists.codecs, budgets = lists.budgets;
  if (codecs.empty()) codecs.emplace_back();
  if (budgets.empty()) budgets.emplace_back();
  std::vector<CacheRequest> arms;
  for (const std::string& policy : lists.policies) {
    for (const std::string& codec : codecs) {
      for (const std::string& budget : budgets) {
        CacheRequest& arm = arms.emplace_back(common);
        arm.policy = policy;
        arm.codec = codec;
        arm.budget = budget;
        if (policy != "none" || !lists.evicts()) continue;
        arm = without_policy(arm);  // the others' options are not meant for it
        break;
      }
    }
  }
  if (arms.size() == 1) return arms;
  const CacheRequest full = full_cache(arms, model);
  const bool listed = std::ranges::any_of(arms, [&](const CacheRequest& arm) {
    return arm.policy == "none" && bytes_per_token(arm, model) == bytes_per_token(full, model);
  });
  if (!listed) {
    spdlog::info(
        "the full cache (no policy) is added to the arms: what the others are compared with");
    arms.insert(arms.begin(), full);
  }
  return arms;
}

}  // namespace ashlar::cli
