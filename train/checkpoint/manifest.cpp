#include <limits>
#include <set>

#include "core/base/error.h"
#include "train/checkpoint/checkpoint.h"

namespace ashlar {
namespace {

constexpr int64_t kFormat = 2;  // 1 had no `state` and only whole tensors
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

Node position_node(const RunPosition& p) {
  // The seed is 64 bits wide without a sign; JSON integers here are signed, so text carries it.
  return Node::Map{{"step", p.step},
                   {"tokens", p.tokens},
                   {"next_sample", p.next_sample},
                   {"seed", std::to_string(p.seed)},
                   {"metrics_bytes", p.metrics_bytes}};
}

RunPosition position_from(const Node& node, const std::string& path) {
  NodeReader reader(node, path);
  RunPosition p;
  p.step = reader.integer("step", 0, kMost);
  p.tokens = reader.integer("tokens", 0, kMost);
  p.next_sample = reader.integer("next_sample", 0, kMost);
  const std::string seed = reader.text("seed");
  p.metrics_bytes = reader.integer("metrics_bytes", 0, kMost);
  reader.finish();
  require(!seed.empty() && seed.size() <= 20 &&
              seed.find_first_not_of("0123456789") == std::string::npos,
          ErrorCode::kData, "{}: {}.seed '{}' is not a number", node.where(), path, seed);
  try {
    p.seed = std::stoull(seed);
  } catch (const std::out_of_range&) {
    fail(ErrorCode::kData, "{}: {}.seed {} exceeds 64 bits", node.where(), path, seed);
  }
  return p;
}

CheckpointManifest::File file_from(const Node& entry) {
  NodeReader reader(entry, "manifest.files");
  CheckpointManifest::File file;
  file.name = reader.text("name");
  file.bytes = reader.integer("bytes", 0, kMost);
  file.sha256 = reader.text("sha256");
  reader.finish();
  require(!file.name.empty() &&
              file.name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
              file.name[0] != '.',
          ErrorCode::kData, "{}: '{}' is not a plain file name", entry.where(), file.name);
  require(file.sha256.size() == 64 &&
              file.sha256.find_first_not_of("0123456789abcdef") == std::string::npos,
          ErrorCode::kData, "{}: {}: '{}' is not a SHA-256", entry.where(), file.name, file.sha256);
  return file;
}

}  // namespace

Node to_node(const CheckpointManifest& manifest) {
  Node files = Node::list();
  for (const auto& file : manifest.files) {
    files.push(Node::Map{{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return Node::Map{{"format", kFormat},
                   {"world", manifest.world},
                   {"position", position_node(manifest.position)},
                   {"eos_id", manifest.eos_id},
                   {"model", to_node(manifest.spec)},
                   {"config", manifest.config},
                   {"state", manifest.state},
                   {"files", std::move(files)}};
}

CheckpointManifest manifest_from_node(const Node& node) {
  NodeReader reader(node, "manifest");
  const int64_t format = reader.integer("format", 1, kMost);
  require(format <= kFormat, ErrorCode::kData,
          "{}: checkpoint format {} is newer than this program's {}", node.where(), format,
          kFormat);
  CheckpointManifest manifest;
  manifest.world = reader.integer("world", 1, int64_t{1} << 20);
  manifest.position = position_from(reader.required("position"), "manifest.position");
  manifest.eos_id = reader.integer("eos_id", 0, int64_t{1} << 31);
  manifest.spec = model_spec_from_resolved(reader.required("model"));
  manifest.config = reader.required("config");
  if (const Node* state = reader.optional("state")) manifest.state = *state;
  for (const Node& entry : reader.required("files").as_list()) {
    manifest.files.push_back(file_from(entry));
  }
  std::set<std::string> names;
  for (const auto& file : manifest.files) {
    require(names.insert(file.name).second, ErrorCode::kData, "{}: manifest.files has {} twice",
            node.where(), file.name);
  }
  reader.finish();
  return manifest;
}

}  // namespace ashlar
