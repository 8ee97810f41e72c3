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

inline constexpr int64_t kBatch = 8, kContext = 512, kVocabulary = 4096;
inline constexpr uint64_t kSeed = 1;

struct Shape {
  std::string name;
  std::string model;  // the `model:` section
};

inline std::vector<Shape> shapes() {
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
  RandomShards()
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("ashlar-train-step-{}", ::getpid())) {
    std::filesystem::create_directories(folder_);
    ShardWriter::Options options;
    options.folder = folder_;
    options.vocab_size = kVocabulary;
    options.vocabulary_sha256 = std::string(64, 'a');
    ShardWriter writer(options);
    const Philox random(kSeed);
    std::vector<int32_t> ids(static_cast<size_t>(kContext) - 1);
    for (uint64_t d = 0; d < 64; ++d) {
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = static_cast<int32_t>(1 + random.below(d * kContext + i, kVocabulary - 1));
      }
      writer.add(ids, kContext);
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

inline TrainConfig train_config(const Shape& shape, Precision precision, int threads) {
  TrainConfig config;
  config.model = model_spec_from_config(parse_yaml(shape.model, shape.name));
  config.seed = kSeed;
  config.steps = int64_t{1} << 30;  // the schedule's length; far beyond what is timed
  config.context = kContext;
  config.batch_size = config.micro_batch = kBatch;
  config.precision = precision;
  config.threads = threads;
  config.optimizer.lr = 1e-4;
  return config;
}

}  // namespace ashlar
