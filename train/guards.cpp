#include "train/guards.h"

#include <cmath>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr const char* kActions[] = {"none", "skip", "rewind", "stop"};

Node list_of(const std::deque<double>& values) {
  Node out = Node::list();
  for (const double v : values) out.push(v);
  return out;
}

std::deque<double> values_of(const Node& state, const char* key) {
  std::deque<double> out;
  const Node* list = state.find(key);
  if (list == nullptr) return out;
  for (const Node& v : list->as_list()) out.push_back(v.as_double());
  return out;
}

}  // namespace

GuardConfig read_guards(const Node& node) {
  NodeReader reader(node, "guards");
  GuardConfig config;
  config.non_finite =
      static_cast<GuardAction>(1 + reader.choice_or("non_finite", 2, {"skip", "rewind", "stop"}));
  config.spike =
      static_cast<GuardAction>(reader.choice_or("spike", 0, {"none", "skip", "rewind", "stop"}));
  config.window = reader.integer_or("window", config.window, 8, 1 << 20);
  config.z = reader.number_or("z", config.z, 0.5, 1000.0);
  config.limit = reader.integer_or("limit", config.limit, 1, 1 << 20);
  config.replay_every = reader.integer_or("replay_every", 0, 0, int64_t{1} << 40);
  reader.finish();
  return config;
}

Node to_node(const GuardConfig& config) {
  return Node::Map{{"non_finite", kActions[static_cast<size_t>(config.non_finite)]},
                   {"spike", kActions[static_cast<size_t>(config.spike)]},
                   {"window", config.window},
                   {"z", config.z},
                   {"limit", config.limit},
                   {"replay_every", config.replay_every}};
}

double Guard::Window::z_of(double value) const {
  double mean = 0, square = 0;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) mean += v / n;
  for (const double v : values) square += (v - mean) * (v - mean) / n;
  if (square == 0) return value > mean ? HUGE_VAL : 0;
  return (value - mean) / std::sqrt(square);
}

Guard::Verdict Guard::judge(int64_t step, double loss, double grad_norm) {
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) {
    return intervene(step, config_.non_finite,
                     fmt::format("the loss is {} and the gradient norm {}", loss, grad_norm));
  }
  if (config_.spike != GuardAction::kApply) {
    const auto full = [&](const Window& w) {
      return static_cast<int64_t>(w.values.size()) >= config_.window;
    };
    for (const auto& [window, value, what] :
         {std::tuple(&losses_, loss, "loss"), std::tuple(&norms_, grad_norm, "gradient norm")}) {
      const double z = full(*window) ? window->z_of(value) : 0;
      if (z > config_.z) {
        return intervene(step, config_.spike,
                         fmt::format("the {} of {:.4g} is {:.3g} standard deviations above the "
                                     "mean of the last {} steps",
                                     what, value, z, config_.window));
      }
    }
    for (const auto& [window, value] : {std::pair(&losses_, loss), std::pair(&norms_, grad_norm)}) {
      window->values.push_back(value);
      if (full(*window) && static_cast<int64_t>(window->values.size()) > config_.window) {
        window->values.pop_front();
      }
    }
  }
  if (step >= bad_step_) in_a_row_ = 0;
  return {};
}

Guard::Verdict Guard::intervene(int64_t step, GuardAction action, std::string reason) {
  bad_step_ = step;
  if (++in_a_row_ > config_.limit) {
    return {GuardAction::kStop,
            fmt::format("{}, for the {}th time in a row (guards.limit)", reason, in_a_row_)};
  }
  return {action, std::move(reason)};
}

Node Guard::state() const {
  return Node::Map{{"losses", list_of(losses_.values)},
                   {"norms", list_of(norms_.values)},
                   {"in_a_row", in_a_row_},
                   {"bad_step", bad_step_}};
}

void Guard::restore(const Node& state) {
  losses_.values = values_of(state, "losses");
  norms_.values = values_of(state, "norms");
  if (const Node* count = state.find("in_a_row")) in_a_row_ = count->as_int();
  if (const Node* step = state.find("bad_step")) bad_step_ = step->as_int();
}

}  // namespace ashlar
