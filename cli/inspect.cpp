#include "cli/inspect.h"

#include <CLI/CLI.hpp>

#include "cli/app.h"
#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/tokenizer.h"
#include "engine/decode/budget.h"
#include "package/format/package.h"
#include "package/import/hf_model.h"
#include "package/import/llama2c.h"
#include "package/import/open_model.h"

namespace ashlar::cli {
namespace fs = std::filesystem;
namespace {

Node describe_tokenizer(const fs::path& path) {
  const auto tokenizer = load_tokenizer(path);
  return Node::Map{{"kind", "tokenizer"},
                   {"valid", true},
                   {"description", tokenizer->description()},
                   {"vocab_size", tokenizer->vocab_size()},
                   {"sha256", tokenizer->hash()}};
}

Node describe(const fs::path& path, std::span<const Inspector> inspectors) {
  require(fs::exists(path), ErrorCode::kRequest, "{}: no such file or folder", path.string());
  for (const Inspector& inspector : inspectors) {
    if (inspector.matches(path)) return inspector.describe(path);
  }
  if (is_package(path)) return describe_model(read_package(path), "package");
  if (is_hf_folder(path)) return describe_model(open_model(path), "huggingface");
  if (fs::is_regular_file(path) && path.extension() == ".bin" && looks_like_llama2c(path)) {
    return describe_model(open_model(path), "llama2c");
  }
  return describe_tokenizer(path);
}

std::string scalar(const Node& node) {
  return node.is_string() ? node.as_string() : write_json(node);
}

void print(const Node& node) {
  for (const auto& [key, value] : node.as_map()) {
    if (!value.is_list() || value.as_list().empty() || !value.as_list()[0].is_map()) {
      fmt::print("{:<32} {}\n", key, scalar(value));
      continue;
    }
    fmt::print("{}\n", key);
    for (const Node& row : value.as_list()) {
      std::string line;
      for (const auto& [k, v] : row.as_map()) line += fmt::format("  {} {}", k, scalar(v));
      fmt::print("{}\n", line);
    }
  }
}

}  // namespace

Node describe_model(const ModelData& model, const std::string& kind) {
  const ModelSpec& spec = model.spec;
  const CacheOptions cache = cache_options("", model.kv_codec.key, model.kv_codec.value);
  Node out = Node::Map{{"kind", kind}, {"valid", true}};
  out.set("architecture", spec.kind == ModelKind::kDecoder ? "decoder" : "block_transformer");
  out.set("parameters_total", parameter_count(spec));
  out.set("parameters_body", body_parameter_count(spec));
  out.set("vocab_size", spec.vocab_size);
  out.set("context_length", spec.context_length);
  out.set("weight_bytes", model.weight_bytes());
  out.set("kv_codec", model.kv_codec.key + ":" + model.kv_codec.value);
  out.set("kv_bytes_per_token", cache_bytes_per_token(spec, cache));
  out.set("multi_head_kv_bytes_per_token", multi_head_kv_bytes_per_token(spec, 2));
  out.set("quantized", !model.recipe.is_null());
  out.set("rotated", !model.rotation.stacks.empty());
  out.set("has_tokenizer", !model.tokenizer_json.empty());
  Node stacks = Node::list();
  for (const StackSpec& s : spec.stacks) {
    const AttentionSpec& a = s.layers[0].attention;
    const Node layer = to_node(s.layers[0]);
    const auto kind = [&layer](const char* part) { return *layer.find(part)->find("kind"); };
    stacks.push(Node::Map{{"name", stack_name(s.role)},
                          {"layers", static_cast<int64_t>(s.layers.size())},
                          {"d_model", s.d_model},
                          {"heads", a.heads},
                          {"kv_heads", a.kv_heads},
                          {"head_dim", a.head_dim},
                          {"d_ff", s.layers[0].ffn.d_ff},
                          {"norm", kind("norm")},
                          {"attention", kind("attention")},
                          {"ffn", kind("ffn")}});
  }
  out.set("stacks", std::move(stacks));
  if (spec.block) out.set("block", *to_node(spec).find("block"));
  Node groups = Node::list();
  for (const KvGroup& g : kv_groups(spec)) groups.push(to_node(spec, g));
  out.set("kv_groups", std::move(groups));
  out.set("weights_sha256", weights_sha256(model));
  return out;
}

void add_inspect(CLI::App& app, std::span<const Inspector> inspectors) {
  struct Options {
    std::string path;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("inspect", "Show and verify what a file or folder holds");
  c->add_option("path", options->path, "Package, model, run, checkpoint, token shards or tokenizer")
      ->required();
  add_json_flag(c, options->json);
  c->footer("Example:\n  ashlar inspect packages/stories");
  c->callback([options, inspectors] {
    const Node out = describe(options->path, inspectors);
    options->json ? print_json(out) : print(out);
  });
}

}  // namespace ashlar::cli
