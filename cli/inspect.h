#pragma once

#include <filesystem>
#include <span>

#include "core/base/node.h"

namespace CLI {
class App;
}

namespace ashlar {
struct ModelData;
}

namespace ashlar::cli {

/// Something `inspect` recognises. `describe` verifies the file as a whole and returns at least
/// {kind, valid}; it throws ashlar::Error when the file is not what it claims to be.
struct Inspector {
  bool (*matches)(const std::filesystem::path& path);
  Node (*describe)(const std::filesystem::path& path);
};

/// What can be said of a model: architecture, sizes, KvGroups, weights_sha256.
Node describe_model(const ModelData& model, const std::string& kind);

/// Adds the subcommand; `inspectors` are tried in order before models and tokenizers.
void add_inspect(CLI::App& app, std::span<const Inspector> inspectors);

}  // namespace ashlar::cli
