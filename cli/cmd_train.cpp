#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/config/config.h"
#include "train/run.h"

namespace ashlar::cli {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string resume = "none";
  std::string output;
  int64_t stop_after = 0;
  bool json = false;
};

Node result_node(const RunResult& r) {
  Node node = Node::Map{{"output", r.output.string()},
                        {"parameters", r.parameters},
                        {"step", r.last.step},
                        {"tokens", r.tokens},
                        {"loss", r.last.loss},
                        {"seconds", r.seconds},
                        {"tokens_per_second", r.tokens_per_second},
                        {"stopped", r.stopped}};
  if (!r.resumed_from.empty()) node.set("resumed_from", r.resumed_from);
  if (r.validation) {
    node.set("validation_loss", r.validation->loss);
    node.set("validation_bits_per_byte", r.validation->bits_per_byte);
    node.set("validation_tokens", r.validation->tokens);
  }
  return node;
}

void print_result(const TrainArguments& a, const RunResult& r) {
  if (r.stopped) {
    fmt::print(
        "stopped after step {}; checkpoint in {}; continue with: ashlar train {}{}{} "
        "--resume auto\n",
        r.last.step, (r.output / "checkpoints").string(), a.config,
        a.output.empty() ? "" : " --output ", a.output);
    return;
  }
  fmt::print("{}: {} parameters, step {}, loss {:.4f}", r.output.string(), r.parameters,
             r.last.step, r.last.loss);
  if (r.validation) {
    fmt::print(", validation {:.4f} ({:.4f} bits per byte)", r.validation->loss,
               r.validation->bits_per_byte);
  }
  fmt::print(", {:.0f} tokens/s\n", r.tokens_per_second);
}

void train(const TrainArguments& a) {
  Node root = load_yaml(a.config);
  if (!a.output.empty()) root.set("output", a.output);
  apply_overrides(root, a.overrides);
  RunOptions options;
  options.stop_after = a.stop_after;
  if (a.resume == "auto") {
    options.resume = RunOptions::Resume::kAuto;
  } else if (a.resume != "none") {
    options.resume = RunOptions::Resume::kFrom;
    options.checkpoint = a.resume;
  }
  const RunResult result = run_training(root, options);
  if (a.json) {
    print_json(result_node(result));
  } else {
    print_result(a, result);
  }
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a model from a YAML configuration");
  auto a = std::make_shared<TrainArguments>();
  command->add_option("config", a->config, "Configuration file")->required();
  command->add_option("--set", a->overrides, "Override a key: a.b=value (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      ->add_option("--resume", a->resume,
                   "auto: newest checkpoint of the output folder; none; or a run or checkpoint")
      ->capture_default_str();
  command->add_option("--output", a->output, "Run folder, instead of the key `output`");
  command->add_option("--stop-after", a->stop_after, "Stop after this step as Ctrl-C would")
      ->check(CLI::NonNegativeNumber);
  add_json_flag(command, a->json);
  command->footer(
      "Example:\n  ashlar train configs/demo/decoder.yaml --set train.steps=200 --output runs/a\n"
      "  ashlar train configs/demo/decoder.yaml --output runs/a --resume auto");
  command->callback([a] { train(*a); });
}

}  // namespace ashlar::cli
