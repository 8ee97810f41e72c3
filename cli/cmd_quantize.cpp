#include "cli/app.h"
#include "cli/commands.h"
#include "cli/run_model.h"
#include "core/config/config.h"
#include "package/format/package.h"
#include "quantize/quantize.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string input, recipe, output;
  bool json = false;
};

void run(const Options& o) {
  const Recipe recipe = recipe_from_node(load_yaml(o.recipe));
  const ModelData before = open_run_or_model(o.input);
  const ModelData after = quantize_model(before, recipe);
  write_package(after, o.output);
  if (o.json) {
    print_json(Node::Map{{"output", o.output},
                         {"bytes", after.weight_bytes()},
                         {"bytes_before", before.weight_bytes()}});
    return;
  }
  fmt::print("{}: {} bytes of weights, {:.2f} bits per parameter (before: {} bytes)\n", o.output,
             after.weight_bytes(),
             8.0 * static_cast<double>(after.weight_bytes()) /
                 static_cast<double>(parameter_count(after.spec)),
             before.weight_bytes());
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("quantize", "Rotate and quantize a run or model into a package");
  c->add_option("model", options->input, "Run, checkpoint, package or importable model")
      ->required();
  c->add_option("--recipe", options->recipe, "YAML: rotations, bits, groups, KV codecs")
      ->required();
  c->add_option("--output", options->output, "Package folder to create")->required();
  add_json_flag(c, options->json);
  c->footer(
      "Example:\n  ashlar quantize packages/stories --recipe configs/quantize/w4_kv4.yaml "
      "--output packages/stories-w4");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
