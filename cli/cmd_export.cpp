#include "cli/app.h"
#include "cli/commands.h"
#include "cli/run_model.h"
#include "core/base/error.h"
#include "package/format/package.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string input, output, format = "package";
  bool json = false;
};

void run(const Options& o) {
  const ModelData model = open_run_or_model(o.input);
  require(
      o.format == "package" || is_plain_llama(model), ErrorCode::kRequest,
      "{}: a Hugging Face folder can hold only an unquantized decoder whose layers are all alike "
      "and own their K/V; use --format package",
      o.input);
  write_package(model, o.output);
  if (o.json) {
    print_json(Node::Map{{"output", o.output}, {"bytes", model.weight_bytes()}});
  } else {
    fmt::print("{}: {} bytes of weights\n", o.output, model.weight_bytes());
  }
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("export", "Write a run or model as a package");
  c->add_option("model", options->input, "Run, checkpoint, package or importable model")
      ->required();
  c->add_option("--format", options->format,
                "package, or hf: a package that stock transformers loads as well")
      ->check(CLI::IsMember({"package", "hf"}))
      ->capture_default_str();
  c->add_option("--output", options->output, "Folder to create")->required();
  add_json_flag(c, options->json);
  c->footer("Example:\n  ashlar export runs/demo/decoder --output runs/demo/decoder-package");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
