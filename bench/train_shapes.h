#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/config/config.h"
#include "data/shards/shard_writer.h"
#include "train/config.h"

// What bench_train_step trains.

namespace ashlar {

inline constexpr uint64_t kSeed = 1;
struct Shape {
  std::string name;
  std::string model;  // the `model:` section
  int64_t batch = 8, context = 512, vocabulary = 4096;
};

// Sizes of a GPU's work: 124M parameters as GPT-2 small has, with and without shared K/V, and a
// Block Transformer of its depth.
inline std::vector<Shape> gpu_shapes() {
  constexpr int64_t kGpuBatch = 16, kGpuContext = 1024, kGpuVocabulary = 50304;
  const auto shape = [&](const std::string& name, const std::string& kind) {
    return Shape{name,
                 fmt::format("{{vocab_size: {}, context_length: {}, tied_head: true, {}}}",
                             kGpuVocabulary, kGpuContext, kind),
                 kGpuBatch, kGpuContext, kGpuVocabulary};
  };
  const auto stack = [](int layers, const std::string& sharing) {
    return fmt::format(
        "{{d_model: 768, layers: {}, kv_sharing: {}, attention: {{heads: 12, head_dim: 64}}, "
        "ffn: {{d_ff: 2048}}}}",
        layers, sharing);
  };
  return {shape("decoder-124M", "kind: decoder, decoder: " + stack(12, "none")),
          shape("cla2-124M", "kind: decoder, decoder: " + stack(12, "cla2")),
          shape("block-124M",
                fmt::format("kind: block_transformer, block: {{length: 4, prefix_length: 2}}, "
                            "global: {}, local: {}",
                            stack(6, "none"), stack(6, "none")))};
}

inline std::vector<Shape> shapes() {
  constexpr int64_t kVocabulary = 4096;
  const std::string sizes = fmt::format("vocab_size: {}, context_length: {}", kVocabulary, 2048);
  const auto stack = [](int width, int layers, int inner) {
    return fmt::format(
        "{{d_model: {}, layers: {}, attention: {{heads: 8, head_dim: {}}}, ffn: {{d_ff: {}}}}}",
        width, layers, width / 8, inner);
  };
  return {
      {"decoder-7M", fmt::format("{{kind: decoder, {}, decoder: {}}}", sizes, stack(256, 6, 704))},
      {"decoder-30M",
       fmt::format("{{kind: decoder, {}, decoder: {}}}", sizes, stack(512, 8, 1408))},
      {"block-30M",
       fmt::format("{{kind: block_transformer, {}, block: {{length: 4, prefix_length: 2}}, "
                   "global: {}, local: {}}}",
                   sizes, stack(512, 6, 1408), stack(512, 2, 1408))},
  };
}

/// Shards of random tokens in a folder that goes with the object.
class RandomShards {
 public:
  explicit RandomShards(const Shape& shape)
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("ashlar-train-step-{}", ::getpid())) {
    std::filesystem::create_directories(folder_);
    ShardWriter::Options options;
    options.folder = folder_;
    options.vocab_size = shape.vocabulary;
    options.vocabulary_sha256 = std::string(64, 'a');
    ShardWriter writer(options);
    const Philox random(kSeed);
    std::vector<int32_t> ids(static_cast<size_t>(shape.context) - 1);
    for (uint64_t d = 0; d < 64; ++d) {
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] =
            static_cast<int32_t>(1 + random.below(d * static_cast<uint64_t>(shape.context) + i,
                                                  static_cast<uint64_t>(shape.vocabulary) - 1));
      }
      writer.add(ids, shape.context);
    }
    writer.finish();
  }
  ~RandomShards() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  RandomShards(const RandomShards&) = delete;
  RandomShards& operator=(const RandomShards&) = delete;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

inline TrainConfig train_config(const Shape& shape, Precision precision, int threads,
                                DeviceKind device) {
  TrainConfig config;
  config.model = model_spec_from_config(parse_yaml(shape.model, shape.name));
  config.seed = kSeed;
  config.steps = int64_t{1} << 30;  // the schedule's length; far beyond what is timed
  config.context = shape.context;
  config.batch_size = config.micro_batch = shape.batch;
  config.device = device;
  config.precision = precision;
  config.threads = threads;
  config.optimizer.lr = 1e-4;
  return config;
}

}  // namespace ashlar
