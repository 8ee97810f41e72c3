#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "core/base/error.h"
#include "train/optim/config.h"

namespace ashlar {
namespace {

// The order of the enumerators.
const std::vector<std::string_view> kSchedules = {"cosine", "wsd", "linear", "constant",
                                                  "inverse_sqrt"};
const std::vector<std::string_view> kShapes = {"linear", "sqrt"};

// decay_steps, decay_ratio or decay_from; by default the last fifth.
void read_decay_begin(NodeReader& reader, int64_t steps, ScheduleConfig& config) {
  const int64_t most = steps - config.warmup_steps;
  int given = 0;
  for (const char* key : {"decay_steps", "decay_ratio", "decay_from"}) {
    if (reader.has(key) && ++given > 1) {
      fail_at(reader.required(key), reader.key_path(key),
              "give one of decay_steps, decay_ratio and decay_from");
    }
  }
  if (reader.has("decay_from")) {
    config.decay_from = reader.integer("decay_from", config.warmup_steps, steps);
    return;
  }
  if (reader.has("decay_steps")) {
    config.decay_steps = reader.integer("decay_steps", 0, most);
    return;
  }
  const double ratio = reader.number_or("decay_ratio", 0.2, 0.0, 1.0);
  config.decay_steps = std::llround(ratio * static_cast<double>(steps));
  if (config.decay_steps > most) {
    const std::string why =
        fmt::format("{} of {} steps decay, but only {} come after warmup_steps = {}",
                    config.decay_steps, steps, most, config.warmup_steps);
    const bool own = reader.has("decay_ratio");
    const char* key = own ? "decay_ratio" : "warmup_steps";
    fail_at(reader.required(key), reader.key_path(key), why);
  }
}

double warmed_up(const ScheduleConfig& c, int64_t steps, int64_t step) {
  // Share of the way from `from` to the last step.
  const auto share = [&](int64_t from) {
    if (step >= steps) return 1.0;
    return static_cast<double>(step - from) / static_cast<double>(steps - from);
  };
  const auto towards_final = [&](double factor) {
    return c.final_ratio + (1.0 - c.final_ratio) * factor;
  };
  switch (c.kind) {
    case ScheduleKind::kCosine:
      return towards_final(0.5 * (1.0 + std::cos(std::numbers::pi * share(c.warmup_steps))));
    case ScheduleKind::kWsd: {
      const int64_t from = c.decay_from.value_or(steps - c.decay_steps);
      if (step <= from) return 1.0;
      const double s = share(from);
      return towards_final(1.0 - (c.shape == DecayShape::kSqrt ? std::sqrt(s) : s));
    }
    case ScheduleKind::kLinear:
      return towards_final(1.0 - share(c.warmup_steps));
    case ScheduleKind::kConstant:
      return 1.0;
    case ScheduleKind::kInverseSqrt:
      return std::sqrt(static_cast<double>(c.warmup_steps) / static_cast<double>(step));
  }
  fail(ErrorCode::kInternal, "schedule kind {} is not registered", static_cast<int>(c.kind));
}

}  // namespace

double schedule_factor(const ScheduleConfig& config, int64_t steps, int64_t step) {
  ASHLAR_CHECK_GE(step, 1);
  if (step <= config.warmup_steps) {
    return static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  }
  return warmed_up(config, steps, step);
}

ScheduleConfig read_schedule(const Node* node, int64_t steps) {
  ScheduleConfig config;
  if (node == nullptr) return config;
  NodeReader reader(*node, "schedule");
  config.kind = static_cast<ScheduleKind>(reader.choice_or("kind", 0, kSchedules));
  if (config.kind == ScheduleKind::kInverseSqrt) {
    config.warmup_steps = reader.integer("warmup_steps", 1, steps);
  } else {
    config.warmup_steps = reader.integer_or("warmup_steps", 0, 0, steps);
  }
  if (config.kind == ScheduleKind::kWsd) {
    read_decay_begin(reader, steps, config);
    config.shape = static_cast<DecayShape>(reader.choice_or("shape", 0, kShapes));
  }
  const bool constant =
      config.kind == ScheduleKind::kConstant || config.kind == ScheduleKind::kInverseSqrt;
  if (!constant) {
    const double last = config.kind == ScheduleKind::kCosine ? 0.1 : 0.0;
    config.final_ratio = reader.number_or("final_ratio", last, 0.0, 1.0);
  }
  reader.finish();
  return config;
}

Node schedule_node(const ScheduleConfig& c) {
  Node out = Node::Map{{"kind", kSchedules.at(static_cast<size_t>(c.kind))},
                       {"warmup_steps", c.warmup_steps}};
  if (c.kind == ScheduleKind::kWsd) {
    if (c.decay_from) {
      out.set("decay_from", *c.decay_from);
    } else {
      out.set("decay_steps", c.decay_steps);
    }
    out.set("shape", kShapes.at(static_cast<size_t>(c.shape)));
  }
  if (c.kind != ScheduleKind::kConstant && c.kind != ScheduleKind::kInverseSqrt) {
    out.set("final_ratio", c.final_ratio);
  }
  return out;
}

}  // namespace ashlar
