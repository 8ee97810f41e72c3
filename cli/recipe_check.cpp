#include "cli/recipe_check.h"

#include "core/base/error.h"
#include "core/config/config.h"
#include "quantize/recipe.h"
#include "quantize/rotation_plan.h"

namespace ashlar::cli {

TrainConfig checked_config(const Node& root) {
  TrainConfig config = train_config_from(root);
  if (config.recipe.empty()) return config;
  const Recipe recipe = recipe_from_node(load_yaml(config.recipe));
  try {
    plan_rotation(config.model, recipe.rotation);
  } catch (const Error& error) {
    fail_at(*root.find("quantize"), "quantize", error.what());
  }
  return config;
}

}  // namespace ashlar::cli
