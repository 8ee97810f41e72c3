#include <algorithm>

#include "cli/commands.h"
#include "cli/inspect.h"
#include "data/shards/llmc_shard.h"
#include "data/shards/shard_set.h"
#include "export/checkpoint_model.h"

namespace ashlar::cli {
namespace fs = std::filesystem;
namespace {

Node describe_checkpoint(const fs::path& path) {
  const CheckpointReader reader(path);
  Node out = describe_model(model_from_checkpoint(reader), "checkpoint");
  out.set("checkpoint", reader.path().string());
  out.set("step", reader.manifest().position.step);
  out.set("tokens", reader.manifest().position.tokens);
  out.set("world", reader.manifest().world);
  return out;
}

bool is_shard(const fs::path& path) {
  return path.extension() == ".h5" || (path.extension() == ".bin" && is_llmc_shard(path));
}

bool holds_shards(const fs::path& path) {
  if (!fs::is_directory(path)) return path.extension() == ".bin" && is_llmc_shard(path);
  const fs::directory_iterator entries(path);
  return std::any_of(begin(entries), end(entries),
                     [](const auto& e) { return is_shard(e.path()); });
}

template <typename T>
Node or_null(const std::optional<T>& value) {
  return value ? Node(static_cast<int64_t>(*value)) : Node();
}

Node describe_shards(const fs::path& path) {
  const ShardSet shards(path);
  // Reading checks every token against the declared vocabulary.
  std::vector<int32_t> buffer(1 << 20);
  for (int64_t at = 0; at < shards.total_tokens(); at += static_cast<int64_t>(buffer.size())) {
    const auto n =
        std::min<int64_t>(shards.total_tokens() - at, static_cast<int64_t>(buffer.size()));
    shards.read(at, std::span(buffer).first(static_cast<size_t>(n)));
  }
  return Node::Map{{"kind", "token_shards"},
                   {"valid", true},
                   {"tokens", shards.total_tokens()},
                   {"samples", shards.samples()},
                   {"documents", or_null(shards.documents())},
                   {"source_bytes", or_null(shards.source_bytes())},
                   {"vocab_size", or_null(shards.vocab_size())},
                   {"eos_id", or_null(shards.eos_id())},
                   {"vocabulary_sha256", shards.vocabulary_sha256()}};
}

constexpr Inspector kInspectors[] = {{is_checkpoint, describe_checkpoint},
                                     {holds_shards, describe_shards}};

}  // namespace

void add_inspect_command(CLI::App& app) { add_inspect(app, kInspectors); }

}  // namespace ashlar::cli
