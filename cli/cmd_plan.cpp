#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/plan_report.h"
#include "cli/recipe_check.h"
#include "core/base/checked.h"
#include "core/config/config.h"
#include "models/spec/parameters.h"
#include "train/config.h"
#include "train/run_plan.h"

namespace ashlar::cli {
namespace {

struct PlanArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string match;
  std::string scale = "none";
  PlanOptions options;
  std::optional<int64_t> zero;
  double latency_us = 0, bandwidth_gb = 0;
  bool json = false;
};

// `precision: auto` is bf16 on a GPU. On the cpu it is fp32: what this machine would choose says
// nothing about the one that is planned for.
bool plans_bf16(const TrainConfig& config, const PlanOptions& options) {
  return config.precision == Precision::kBf16 ||
         (config.precision == Precision::kAuto && options.device != "cpu");
}

Plan plan_of(const Node& root, const PlanArguments& a) {
  TrainConfig config = checked_config(root);
  if (a.zero) config.distributed.zero = *a.zero;
  return make_plan(config.model, run_shape(config, plans_bf16(config, a.options)), a.options);
}

PlanMatch match_with(const Node& root, const Plan& plan, const PlanArguments& a) {
  PlanMatch out{plan_of(load_yaml(a.match), a), 0, {}};
  out.steps = steps_for_flops(plan.spec, plan.run, out.other.run_flops);
  const Measure measure = [](const ModelSpec& spec) {
    return static_cast<double>(parameter_count(spec));
  };
  const auto target = static_cast<double>(out.other.parameters.total);
  if (a.scale == "layers") out.scaled = scale_layers(*root.find("model"), measure, target);
  if (a.scale == "width") out.scaled = scale_width(*root.find("model"), measure, target);
  return out;
}

void run_plan(const PlanArguments& a) {
  require(a.scale == "none" || !a.match.empty(), ErrorCode::kRequest,
          "--scale {} needs --match: what should the parameters equal?", a.scale);
  Node root = load_yaml(a.config);
  apply_overrides(root, a.overrides);
  const Plan plan = plan_of(root, a);
  const int64_t passes = ceil_div(plan.run.batch_size, plan.run.micro_batch);
  if (a.options.ranks > passes) {
    spdlog::warn(
        "{} ranks, but micro-batches per step: {}; the other ranks idle, lower "
        "train.micro_batch",
        a.options.ranks, passes);
  }
  std::optional<PlanMatch> match;
  if (!a.match.empty()) match = match_with(root, plan, a);
  const PlanMatch* beside = match ? &*match : nullptr;
  if (a.json) {
    print_json(plan_node(plan, beside));
  } else {
    fmt::print("{}", plan_table(plan, beside));
  }
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "plan", "What a configuration will need: parameters, FLOPs, KV bytes, memory, time");
  auto a = std::make_shared<PlanArguments>();
  command->add_option("config", a->config, "Configuration file, as train reads it")->required();
  command->add_option("--set", a->overrides, "Override a key: a.b=value (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--ranks", a->options.ranks, "Data-parallel ranks")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--zero", a->zero, "ZeRO stage (default: distributed.zero)")
      ->check(CLI::Range(0, 3));
  command
      ->add_option("--link-bandwidth", a->bandwidth_gb,
                   "GB/s that a rank sends, of all links (default: the device's)")
      ->check(CLI::Range(1e-3, 1e6));
  command
      ->add_option("--link-latency", a->latency_us,
                   "µs of a step of a ring, of all links (default: the device's)")
      ->check(CLI::Range(1e-3, 1e7));
  command
      ->add_option("--ranks-per-node", a->options.ranks_per_node,
                   "Ranks that share the links inside a node (default: the device's)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  std::vector<std::string> names;
  for (const Device& device : devices()) names.emplace_back(device.name);
  command->add_option("--device", a->options.device, "For memory and time; each rank has one")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  command
      ->add_option("--bytes-per-element", a->options.kv_bytes_per_element,
                   "Of the KV cache: 2 for fp16, 0.5 for 4 bits without their scales")
      ->check(CLI::Range(0.125, 8.0))
      ->capture_default_str();
  command->add_option(
      "--match", a->match,
      "Another configuration: steps of this one for equal FLOPs, both side by side");
  command
      ->add_option("--scale", a->scale,
                   "With --match: layers or width that give the other's parameters")
      ->check(CLI::IsMember({"none", "layers", "width"}))
      ->capture_default_str();
  add_json_flag(command, a->json);
  command->footer(
      "Memory and time are estimates (docs/scaling.md): what a rank keeps and what comes and goes "
      "in "
      "a step; an assumed share of the device's peak, and collectives as rings beside it.\n"
      "Example:\n  ashlar plan configs/pretrain/block-420m.yaml --ranks 64 --device h100 --zero 2\n"
      "  ashlar plan configs/pretrain/block-170m.yaml --match configs/pretrain/vanilla-70m.yaml");
  command->callback([a] {
    a->options.inside = a->options.between = {1e-6 * a->latency_us, 1e9 * a->bandwidth_gb};
    run_plan(*a);
  });
}

}  // namespace ashlar::cli
