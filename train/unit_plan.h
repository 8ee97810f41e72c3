#pragma once

#include <cstdint>
#include <vector>

#include "models/spec/parameters.h"
#include "train/dist/unit_layout.h"

namespace ashlar {

/// Where a parameter lies: part `part` of unit `unit`.
struct ParameterPlace {
  size_t unit = 0, part = 0;
};

/// How a model's parameters are grouped into units. Units of trained parameters come first, in the
/// order in which backward passes finish them, then those of frozen ones.
struct UnitPlan {
  std::vector<UnitLayout> units;
  size_t trained = 0;        ///< how many of them
  std::vector<bool> narrow;  ///< of each unit: linear maps alone, which products read in bf16
  std::vector<ParameterPlace> places;  ///< by index into the parameters
};

/// One unit for each stage's parameters; those of a stage without matrices join the stage before. A
/// parameter of several stages (a tied head) belongs to the first of them. With
/// `split_narrow` a stage's linear maps get a unit apart, so that they can be gathered in bf16.
/// `stages[i]`: indices of the parameters of stage i, the loss behind the last. Frozen parameters,
/// those not in `trained`, get units apart. At most `shards` slices.
UnitPlan plan_units(const std::vector<ParameterSpec>& specs,
                    const std::vector<std::string>& stage_names,
                    const std::vector<std::vector<size_t>>& stages,
                    const std::vector<bool>& trained, bool split_narrow, int64_t shards);

}  // namespace ashlar
