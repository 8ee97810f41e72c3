#include "cli/app.h"
#include "cli/commands.h"
#include "cli/run_model.h"
#include "core/base/error.h"
#include "export/checkpoint_model.h"
#include "export/gguf.h"
#include "export/hf.h"
#include "package/format/package.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string input, output, format = "package", type, weights = "trained";
  uint64_t shard_bytes = 0;
  bool json = false;
};

int64_t write_hf(const ModelData& model, const Options& o) {
  HfExportOptions options;
  require(o.type.empty() || o.type == "f32" || o.type == "f16" || o.type == "bf16",
          ErrorCode::kRequest, "--type {} belongs to --format gguf", o.type);
  if (o.type == "f32") options.type = DType::kF32;
  if (o.type == "f16") options.type = DType::kF16;
  if (o.type == "bf16") options.type = DType::kBF16;
  if (o.shard_bytes > 0) options.shard_bytes = static_cast<int64_t>(o.shard_bytes);
  return export_hf(model, o.output, options);
}

int64_t write(const ModelData& model, const Options& o) {
  if (o.format == "hf") return write_hf(model, o);
  require(o.shard_bytes == 0, ErrorCode::kRequest, "--shard-size belongs to --format hf");
  if (o.format == "gguf") {
    return write_gguf(model, o.output, gguf_file_type(o.type.empty() ? "f16" : o.type));
  }
  require(o.type.empty(), ErrorCode::kRequest, "--type belongs to --format hf and --format gguf");
  write_package(model, o.output);
  return model.weight_bytes();
}

void run(const Options& o) {
  require(o.weights == "trained" || is_checkpoint(o.input), ErrorCode::kRequest,
          "--weights average belongs to runs and checkpoints; {} is neither", o.input);
  const ModelData model = o.weights == "trained"
                              ? open_run_or_model(o.input)
                              : model_from_checkpoint(o.input, CheckpointWeights::kAverage);
  const int64_t bytes = write(model, o);
  if (o.json) {
    print_json(Node::Map{{"output", o.output}, {"bytes", bytes}});
  } else {
    fmt::print("{}: {} bytes of weights\n", o.output, bytes);
  }
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("export", "Write a run or model for other programs");
  c->add_option("model", options->input, "Run, checkpoint, package or importable model")
      ->required();
  c->add_option(
       "--format", options->format,
       "package, or hf: a folder for transformers (with trust_remote_code=True where it has "
       "no class of its own), or gguf: a plain decoder as one file for llama.cpp")
      ->check(CLI::IsMember({"package", "hf", "gguf"}))
      ->capture_default_str();
  c->add_option("--type", options->type,
                "hf: f32, f16 or bf16 (default: as stored); gguf: f16 (default), q8_0 or q4_0")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_0"}));
  c->add_option("--shard-size", options->shard_bytes,
                "hf: bytes of one weights file, such as 2GB (default: 5GB)")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::PositiveNumber);
  c->add_option("--weights", options->weights,
                "Of a run: trained, or average: their moving average (key ema)")
      ->check(CLI::IsMember({"trained", "average"}))
      ->capture_default_str();
  c->add_option("--output", options->output, "Folder or GGUF file to create")->required();
  add_json_flag(c, options->json);
  c->footer(
      "Examples:\n  ashlar export runs/demo/decoder --output runs/demo/decoder-package\n"
      "  ashlar export runs/demo/decoder --format hf --type bf16 --output decoder-hf\n"
      "  ashlar export runs/demo/decoder --format gguf --type q8_0 --output decoder.gguf");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
