#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>

#include "core/base/rng.h"
#include "core/config/config.h"
#include "data/shards/shard_writer.h"

namespace ashlar::test {

/// Token shards of a small learnable language: each token is one of four that depend on the one
/// before.
inline void write_shards(const std::filesystem::path& folder, int64_t documents, uint64_t seed,
                         int64_t vocabulary = 32) {
  std::filesystem::create_directories(folder);
  ShardWriter::Options options;
  options.folder = folder;
  options.vocab_size = vocabulary;
  options.vocabulary_sha256 = std::string(64, 'a');
  ShardWriter writer(options);
  const Philox random(seed);
  for (int64_t d = 0; d < documents; ++d) {
    std::vector<int32_t> ids = {1, 2};
    for (uint64_t i = 2; i < 120; ++i) {
      const auto base = ids[i - 1] * 3;
      const auto noise = random.below(static_cast<uint64_t>(d) * 1000 + i, 4);
      ids.push_back(
          static_cast<int32_t>(1 + (base + static_cast<int64_t>(noise)) % (vocabulary - 1)));
    }
    writer.add(ids, static_cast<int64_t>(ids.size()) * 2);
  }
  writer.finish();
}

/// A complete configuration; `data` holds train/ and validation/.
inline std::string train_yaml(const std::filesystem::path& data,
                              const std::filesystem::path& output, const std::string& model,
                              const std::string& precision = "fp32") {
  return fmt::format(
      "model:\n  vocab_size: 32\n  context_length: 32\n{}"
      "data: {{train: {}/train, validation: {}/validation}}\n"
      "train: {{seed: 3, steps: 12, context: 32, batch_size: 4, micro_batch: 2, precision: {}, "
      "threads: 1}}\n"
      "optimizer: {{kind: adamw, lr: 1.0e-2, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}}\n"
      "schedule: {{kind: cosine, warmup_steps: 3, final_ratio: 0.1}}\n"
      "validation: {{every: 6, batches: 2}}\n"
      "checkpoint: {{every: 5, keep: 3}}\n"
      "log: {{every: 1, peak_flops: 0}}\n"
      "output: {}\n",
      model, data.string(), data.string(), precision, output.string());
}

inline const char* const kDecoderModel =
    "  kind: decoder\n"
    "  decoder: {d_model: 32, layers: 4, kv_sharing: cla2, ffn: {d_ff: 48},\n"
    "    attention: {heads: 4, kv_heads: 2, head_dim: 8}}\n";
inline const char* const kBlockModel =
    "  kind: block_transformer\n"
    "  block: {length: 4, prefix_length: 2}\n"
    "  global: {d_model: 32, layers: 2, kv_sharing: cla2, ffn: {d_ff: 48},\n"
    "    attention: {heads: 4, kv_heads: 2, head_dim: 8}}\n"
    "  local: {d_model: 32, layers: 2, ffn: {d_ff: 48}, attention: {heads: 4, head_dim: 8}}\n";

inline void write_data(const std::filesystem::path& data) {
  write_shards(data / "train", 20, 1);
  write_shards(data / "validation", 3, 2);
}

}  // namespace ashlar::test
