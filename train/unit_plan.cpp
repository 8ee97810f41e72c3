#include "train/unit_plan.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {
namespace {

struct Group {
  std::string name;
  std::vector<size_t> parameters;
  bool narrow = false;
};

bool has_matrix(const std::vector<ParameterSpec>& specs, const std::vector<size_t>& which) {
  return std::any_of(which.begin(), which.end(), [&](size_t p) { return specs[p].is_matrix(); });
}

// Parameters by the stage that reads them first.
std::vector<Group> groups_of(const std::vector<ParameterSpec>& specs,
                             const std::vector<std::string>& names,
                             const std::vector<std::vector<size_t>>& stages) {
  std::vector<Group> out;
  std::vector<bool> taken(specs.size());
  for (size_t s = 0; s < stages.size(); ++s) {
    Group group{names[s], {}};
    for (const size_t p : stages[s]) {
      if (!taken[p]) group.parameters.push_back(p);
      taken[p] = true;
    }
    if (group.parameters.empty()) continue;
    if (!out.empty() && !has_matrix(specs, group.parameters)) {
      auto& before = out.back().parameters;
      before.insert(before.end(), group.parameters.begin(), group.parameters.end());
    } else {
      out.push_back(std::move(group));
    }
  }
  ASHLAR_CHECK(std::find(taken.begin(), taken.end(), false) == taken.end());
  return out;
}

// Linear maps of a group and the rest.
std::vector<Group> split(const std::vector<ParameterSpec>& specs, const Group& group) {
  Group maps{group.name, {}, true}, rest{group.name + " (fp32)", {}};
  for (const size_t p : group.parameters) {
    (specs[p].is_linear() ? maps : rest).parameters.push_back(p);
  }
  std::vector<Group> out;
  for (Group* g : {&maps, &rest}) {
    if (!g->parameters.empty()) out.push_back(std::move(*g));
  }
  return out;
}

}  // namespace

UnitPlan plan_units(const std::vector<ParameterSpec>& specs,
                    const std::vector<std::string>& stage_names,
                    const std::vector<std::vector<size_t>>& stages, bool split_narrow,
                    int64_t shards) {
  std::vector<Group> groups;
  for (const Group& group : groups_of(specs, stage_names, stages)) {
    const auto parts = split_narrow ? split(specs, group) : std::vector<Group>{group};
    groups.insert(groups.end(), parts.begin(), parts.end());
  }
  std::reverse(groups.begin(), groups.end());
  UnitPlan plan;
  plan.places.resize(specs.size());
  for (const Group& group : groups) {
    std::vector<std::pair<size_t, int64_t>> sizes;
    for (const size_t p : group.parameters) {
      plan.places[p] = {plan.units.size(), sizes.size()};
      sizes.emplace_back(p, specs[p].numel());
    }
    plan.units.push_back(make_unit_layout(group.name, sizes, shards));
    plan.narrow.push_back(group.narrow);
  }
  return plan;
}

}  // namespace ashlar
