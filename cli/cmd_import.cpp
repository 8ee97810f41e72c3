#include "cli/app.h"
#include "cli/commands.h"
#include "core/base/error.h"
#include "package/format/package.h"
#include "package/import/open_model.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string input, tokenizer, output;
  bool json = false;
};

void run(const Options& o) {
  require(!is_package(o.input), ErrorCode::kRequest, "{}: is an Ashlar package already", o.input);
  const ModelData model = open_model(o.input, o.tokenizer);
  write_package(model, o.output);
  if (o.json) {
    print_json(Node::Map{{"output", o.output},
                         {"bytes", model.weight_bytes()},
                         {"parameters", parameter_count(model.spec)}});
    return;
  }
  fmt::print("{}: {} parameters, {} bytes of weights{}\n", o.output, parameter_count(model.spec),
             model.weight_bytes(), model.tokenizer_json.empty() ? ", no tokenizer" : "");
}

}  // namespace

void add_import_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("import", "Turn a foreign model into a package");
  c->add_option("path", options->input, "Hugging Face folder, GGUF file or llama2.c model (.bin)")
      ->required();
  c->add_option("--tokenizer", options->tokenizer,
                "Tokenizer (default: the one inside, else tokenizer.json, tok<vocab>.bin or "
                "tokenizer.bin beside it)");
  c->add_option("--output", options->output, "Folder to create")->required();
  add_json_flag(c, options->json);
  c->footer(
      "Example:\n  ashlar import SmolLM2-135M --output packages/smollm2\n"
      "  ashlar import stories260K.bin --output packages/stories");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
