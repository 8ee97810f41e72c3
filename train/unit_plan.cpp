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

// The parameters of a group for which `chosen` holds, and the others; empty halves are left out.
template <typename Chosen>
std::vector<Group> split(const Group& group, Chosen chosen) {
  Group yes{group.name, {}, group.narrow}, no{group.name, {}, group.narrow};
  for (const size_t p : group.parameters) (chosen(p) ? yes : no).parameters.push_back(p);
  std::vector<Group> out;
  for (Group* g : {&yes, &no}) {
    if (!g->parameters.empty()) out.push_back(std::move(*g));
  }
  return out;
}

}  // namespace

UnitPlan plan_units(const std::vector<ParameterSpec>& specs,
                    const std::vector<std::string>& stage_names,
                    const std::vector<std::vector<size_t>>& stages,
                    const std::vector<bool>& trained, bool split_narrow, int64_t shards) {
  const auto is_narrow = [&](size_t p) { return split_narrow && specs[p].is_linear(); };
  std::vector<Group> groups;
  for (const Group& group : groups_of(specs, stage_names, stages)) {
    for (const Group& kind : split(group, is_narrow)) {
      for (Group& half : split(kind, [&](size_t p) { return trained[p]; })) {
        half.narrow = is_narrow(half.parameters.front());
        groups.push_back(std::move(half));
      }
    }
  }
  std::reverse(groups.begin(), groups.end());
  std::stable_partition(groups.begin(), groups.end(),
                        [&](const Group& g) { return trained[g.parameters.front()]; });
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
    plan.trained += trained[group.parameters.front()] ? 1 : 0;
  }
  return plan;
}

}  // namespace ashlar
