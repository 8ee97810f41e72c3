#include "cli/inspect.h"

#include <CLI/CLI.hpp>

#include "cli/app.h"
#include "cli/kv_matrix.h"
#include "core/base/error.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "data/tokenizer/tokenizer.h"
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
  if (is_gguf(path)) return describe_model(open_model(path), "gguf");
  if (is_hf_folder(path)) return describe_model(open_model(path), "huggingface");
  if (fs::is_regular_file(path) && path.extension() == ".bin" && looks_like_llama2c(path)) {
    return describe_model(open_model(path), "llama2c");
  }
  return describe_tokenizer(path);
}

std::string scalar(const Node& node) {
  return node.is_string() ? node.as_string() : write_json(node);
}

// "3", or "0 … 29" for a run.
std::string span_of(const Node& first, const Node& last) {
  const std::string from = scalar(first), to = scalar(last);
  return from == to ? from : from + " … " + to;
}

// Neighbouring rows that differ only in what counts up (`id`, `owner`, `readers`) are one line.
void print_rows(const Node::List& rows) {
  const auto counts = [](const std::string& key) {
    return key == "id" || key == "owner" || key == "readers";
  };
  const auto alike = [&](const Node& a, const Node& b) {
    for (const auto& [key, value] : a.as_map()) {
      const Node* other = b.find(key);
      if (other == nullptr || (!counts(key) && scalar(*other) != scalar(value))) return false;
      if (key == "readers" && other->as_list().size() != value.as_list().size()) return false;
    }
    return true;
  };
  for (size_t i = 0; i < rows.size();) {
    size_t last = i;
    if (rows[i].find("id") != nullptr) {
      while (last + 1 < rows.size() && alike(rows[i], rows[last + 1])) ++last;
    }
    std::string line;
    for (const auto& [key, value] : rows[i].as_map()) {
      line += fmt::format("  {} {}", key, span_of(value, *rows[last].find(key)));
    }
    fmt::print("{}\n", line);
    i = last + 1;
  }
}

void print(const Node& node) {
  for (const auto& [key, value] : node.as_map()) {
    if (!value.is_list() || value.as_list().empty() || !value.as_list()[0].is_map()) {
      fmt::print("{:<32} {}\n", key, scalar(value));
      continue;
    }
    fmt::print("{}\n", key);
    print_rows(value.as_list());
  }
}

void print_matrix(const std::string& path, bool json) {
  NamedSpecs models;
  if (path.empty()) {
    models = matrix_architectures();
  } else {
    models.emplace_back(fs::path(path).filename().string(), open_model(path).spec);
  }
  json ? print_json(to_node(ask_matrix(models))) : fmt::print("{}", matrix_markdown(models));
}

}  // namespace

void add_inspect(CLI::App& app, std::span<const Inspector> inspectors) {
  struct Options {
    std::string path;
    bool matrix = false, json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("inspect", "Show and verify what a file or folder holds");
  CLI::Option* path = c->add_option("path", options->path,
                                    "Package, model, run, checkpoint, token shards or tokenizer");
  c->add_flag("--kv-matrix", options->matrix,
              "Which cache policy goes with which codec and option, and why not: for the model, or "
              "without one for each architecture");
  add_json_flag(c, options->json);
  c->footer(
      "Examples:\n  ashlar inspect packages/stories\n  ashlar inspect packages/stories "
      "--kv-matrix");
  c->callback([options, inspectors, path] {
    if (options->matrix) return print_matrix(options->path, options->json);
    if (options->path.empty()) throw CLI::RequiredError(path->get_name());
    const Node out = describe(options->path, inspectors);
    options->json ? print_json(out) : print(out);
  });
}

}  // namespace ashlar::cli
