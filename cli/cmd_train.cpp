#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/recipe_check.h"
#include "cli/run_model.h"
#include "core/base/error.h"
#include "core/config/config.h"
#include "data/tokenizer/tokenizer.h"
#include "export/adapt.h"
#include "train/data.h"
#include "train/run.h"
#include "train/stop_signals.h"

namespace ashlar::cli {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string resume = "none";
  std::string output;
  std::string init, init_kv = "mean", init_split = "partition";
  int64_t stop_after = 0;
  bool json = false;
};

// Ids must mean the same in the model and in the data.
void check_same_tokenizer(const ModelData& model, const TrainConfig& config) {
  const auto data = TrainingData::train(config);
  if (model.tokenizer_json.empty() || data->vocabulary().empty()) return;
  require(model_tokenizer(model, "--init")->hash() == data->vocabulary(), ErrorCode::kRequest,
          "--init: the model's tokenizer is not the one {} was made with", data->name());
}

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
    if (r.validation->bits_per_byte) {
      node.set("validation_bits_per_byte", *r.validation->bits_per_byte);
    }
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
    fmt::print(", validation {:.4f}", r.validation->loss);
    if (r.validation->bits_per_byte) {
      fmt::print(" ({:.4f} bits per byte)", *r.validation->bits_per_byte);
    }
  }
  fmt::print(", {:.0f} tokens/s\n", r.tokens_per_second);
}

// The weights of --init, adapted to the configuration's model.
std::function<std::vector<float>(const ParameterSpec&)> initial_values(const TrainArguments& a,
                                                                       const TrainConfig& config) {
  const ModelData source = open_run_or_model(a.init);
  check_same_tokenizer(source, config);
  AdaptOptions options;
  if (a.init_kv == "first") options.kv = KvPooling::kFirst;
  if (a.init_split == "skip") options.split = LayerSplit::kSkip;
  if (a.init_split == "duplicate") options.split = LayerSplit::kDuplicate;
  const auto model = std::make_shared<ModelData>(adapt_model(source, config.model, options));
  return [model](const ParameterSpec& p) { return to_floats(model->tensor(p.name)); };
}

// Returns the exit status.
int train(const TrainArguments& a) {
  Node root = load_yaml(a.config);
  if (!a.output.empty()) root.set("output", a.output);
  apply_overrides(root, a.overrides);
  const TrainConfig config = checked_config(root);
  RunOptions options;
  options.stop_after = a.stop_after;
  if (a.resume == "auto") {
    options.resume = RunOptions::Resume::kAuto;
  } else if (a.resume != "none") {
    options.resume = RunOptions::Resume::kFrom;
    options.checkpoint = a.resume;
  }
  if (!a.init.empty()) options.initial = initial_values(a, config);
  options.fatal = [](const std::exception& error) {
    fmt::print(stderr, "ashlar: {}\n", error.what());
    std::fflush(nullptr);
    const auto* own = dynamic_cast<const Error*>(&error);
    _exit(own != nullptr ? own->exit_status() : 1);
  };
  const RunResult result = run_training(root, options);
  if (result.rank != 0) return result.signalled ? kRequeueStatus : 0;
  if (a.json) {
    print_json(result_node(result));
  } else {
    print_result(a, result);
  }
  return result.signalled ? kRequeueStatus : 0;
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
  command->add_option("--init", a->init,
                      "Begin with the weights of this run or model, adapted to the configuration: "
                      "a decoder to shared K/V or to a Block Transformer");
  command
      ->add_option("--init-kv", a->init_kv,
                   "K/V of layers that come to share them: mean of the group, or of its first")
      ->check(CLI::IsMember({"mean", "first"}))
      ->capture_default_str();
  command
      ->add_option("--init-split", a->init_split,
                   "Layers of a decoder that become a Block Transformer's two stacks")
      ->check(CLI::IsMember({"partition", "skip", "duplicate"}))
      ->capture_default_str();
  command->add_option("--output", a->output, "Run folder, instead of the key `output`");
  command->add_option("--stop-after", a->stop_after, "Save and stop after this step")
      ->check(CLI::NonNegativeNumber);
  add_json_flag(command, a->json);
  command->footer(
      "Example:\n  ashlar train configs/demo/decoder.yaml --set train.steps=200 --output runs/a\n"
      "  ashlar train configs/demo/decoder.yaml --output runs/a --resume auto\n"
      "  torchrun --nproc-per-node 2 --no-python ashlar train configs/demo/decoder.yaml --resume "
      "auto\n"
      "Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint and end with status 75.");
  command->callback([a] {
    if (const int status = train(*a); status != 0) throw ExitStatus{status};
  });
}

}  // namespace ashlar::cli
