#include "models/spec/match.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kMost = 1024;      // layers of a stack, as the reader allows; heads
constexpr int64_t kFfnMultiple = 8;  // d_ff stays a multiple, for SIMD and quantization groups

// Keys of the stacks that are scaled.
std::vector<std::string> stack_keys(const Node& section) {
  const Node* kind = section.find("kind");
  if (kind != nullptr && kind->as_string() == "decoder") return {"decoder"};
  return {"global", "local"};
}

Node& at(Node& section, const std::string& stack) {
  Node* node = section.find(stack);
  ASHLAR_CHECK(node != nullptr);  // the section has been read as a ModelSpec
  return *node;
}

void refuse_overrides(const Node& section) {
  for (const std::string& key : stack_keys(section)) {
    const Node* stack = section.find(key);
    ASHLAR_CHECK(stack != nullptr);
    if (const Node* overrides = stack->find("overrides")) {
      fail_at(*overrides, "model." + key + ".overrides",
              "names layers one by one; a model with overrides cannot be scaled");
    }
  }
}

void change(ScaledModel& model, const std::string& stack, const std::string& map,
            const std::string& key, int64_t value) {
  Node& node = at(model.section, stack);
  (map.empty() ? node : *node.find(map)).set(key, value);
  model.changes.push_back(
      fmt::format("model.{}.{}{}={}", stack, map.empty() ? "" : map + ".", key, value));
}

void finish(ScaledModel& model, const Measure& measure) {
  model.spec = model_spec_from_config(model.section);
  model.measure = measure(model.spec);
}

// The candidate of `make(step)` nearest to the target, walking from `start` towards it; the measure
// grows with the step. `make` returns nothing for steps that cannot exist.
template <typename Make>
ScaledModel nearest(int64_t start, double target, const Make& make) {
  std::optional<ScaledModel> best = make(start);
  ASHLAR_CHECK(best.has_value());
  const bool up = best->measure < target;
  for (int64_t step = start + (up ? 1 : -1); step >= 1 && step <= kMost; step += up ? 1 : -1) {
    std::optional<ScaledModel> candidate = make(step);
    if (!candidate) continue;
    if (std::abs(candidate->measure - target) < std::abs(best->measure - target)) best = candidate;
    if (up ? candidate->measure >= target : candidate->measure <= target) break;
  }
  return std::move(*best);
}

}  // namespace

int64_t steps_for_flops(const ModelSpec& spec, const RunShape& run, double flops) {
  const double step =
      3 * training_flops(spec, run.context).total() * static_cast<double>(run.tokens_per_step());
  return std::max<int64_t>(1, std::llround(flops / step));
}

ScaledModel scale_layers(const Node& section, const Measure& measure, double target) {
  const ModelSpec spec = model_spec_from_config(section);
  refuse_overrides(section);
  const std::vector<std::string> keys = stack_keys(section);
  int64_t units = 0;
  for (size_t s = 0; s < keys.size(); ++s) {
    const Node* sharing = section.find(keys[s])->find("kv_sharing");
    if (sharing != nullptr && sharing->is_list()) {
      fail_at(*sharing, "model." + keys[s] + ".kv_sharing",
              "an explicit list of owners cannot be scaled");
    }
    units = std::gcd(units, static_cast<int64_t>(spec.stacks[s].layers.size()));
  }
  return nearest(units, target, [&](int64_t step) -> std::optional<ScaledModel> {
    ScaledModel out;
    out.section = section;
    for (size_t s = 0; s < keys.size(); ++s) {
      const auto layers = static_cast<int64_t>(spec.stacks[s].layers.size()) / units * step;
      if (layers > kMost) return {};
      change(out, keys[s], "", "layers", layers);
    }
    finish(out, measure);
    return out;
  });
}

ScaledModel scale_width(const Node& section, const Measure& measure, double target) {
  const ModelSpec spec = model_spec_from_config(section);
  refuse_overrides(section);
  const std::vector<std::string> keys = stack_keys(section);
  for (size_t s = 0; s < keys.size(); ++s) {
    const int64_t heads = spec.stacks[s].layers[0].attention.heads;
    if (spec.stacks[s].d_model % heads != 0) {
      fail_at(*section.find(keys[s]), "model." + keys[s] + ".d_model",
              fmt::format("{} is not a multiple of heads = {}, so whole heads do not scale it",
                          spec.stacks[s].d_model, heads));
    }
  }
  const int64_t base = spec.stacks[0].layers[0].attention.heads;
  return nearest(base, target, [&](int64_t step) -> std::optional<ScaledModel> {
    ScaledModel out;
    out.section = section;
    for (size_t s = 0; s < keys.size(); ++s) {
      const LayerSpec& layer = spec.stacks[s].layers[0];
      const AttentionSpec& a = layer.attention;
      const int64_t heads = a.heads * step / base, width = spec.stacks[s].d_model / a.heads * heads;
      const bool full = a.kv_heads == a.heads;
      if (a.heads * step % base != 0 || (!full && heads % a.kv_heads != 0)) return {};
      if (spec.block && width % spec.block->length != 0) return {};
      const double ffn = static_cast<double>(layer.ffn.d_ff * step) / static_cast<double>(base);
      change(out, keys[s], "", "d_model", width);
      change(out, keys[s], "attention", "heads", heads);
      if (full && !a.latent() && section.find(keys[s])->find("attention")->find("kv_heads")) {
        change(out, keys[s], "attention", "kv_heads", heads);
      }
      change(out, keys[s], "ffn", "d_ff",
             step == base ? layer.ffn.d_ff
                          : std::max<int64_t>(1, std::llround(ffn / kFfnMultiple)) * kFfnMultiple);
    }
    finish(out, measure);
    return out;
  });
}

}  // namespace ashlar
