#include <gtest/gtest.h>

#include <cstring>

#include "core/config/config.h"
#include "tests/train/run_state.h"
#include "train/run.h"

// Where a run's samples come from: mixtures of corpora, shards of others.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::Fixture;
using test::parameters_of;

TEST(TrainingData, MixturesResumeBitForBit) {
  const Fixture f;
  test::write_shards(f.dir / "second", 5, 9);
  std::string text = f.yaml("mixed");
  const auto train = text.find("train: " + (f.dir / "train").string());
  ASSERT_NE(train, std::string::npos);
  text.replace(train, text.find(',', train) - train,
               fmt::format("train: [{{path: {}, weight: 0.75}}, {{path: {}, weight: 0.25}}]",
                           (f.dir / "train").string(), (f.dir / "second").string()));
  const Node root = parse_yaml(text, "t.yaml");
  run_training(root, {});
  const auto expected = parameters_of(*newest_checkpoint(f.dir / "mixed"));
  fs::remove_all(f.dir / "mixed");
  RunOptions options;
  options.stop_after = 7;
  run_training(root, options);
  options.stop_after = 0;
  options.resume = RunOptions::Resume::kAuto;
  run_training(load_yaml(f.dir / "mixed" / "config.yaml"), options);  // as it was written
  EXPECT_EQ(parameters_of(*newest_checkpoint(f.dir / "mixed")), expected);
  // Other proportions are another order of the data.
  fs::remove_all(f.dir / "mixed");
  text.replace(text.find("weight: 0.75"), 12, "weight: 0.25");
  run_training(parse_yaml(text, "t.yaml"), {});
  EXPECT_NE(parameters_of(*newest_checkpoint(f.dir / "mixed")), expected);
}

TEST(TrainConfig, MistakesInAMixtureNameTheirKey) {
  const Fixture f;
  const std::string path = (f.dir / "train").string();
  test::write_shards(f.dir / "wide", 5, 9, 40);
  const auto refuses = [&](const std::string& train, const std::vector<std::string>& why) {
    std::string text = f.yaml("mixed");
    const size_t at = text.find("train: " + path);
    text.replace(at, text.find(',', at) - at, "train: " + train);
    test::expect_error(ErrorCode::kRequest, why,
                       [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
    EXPECT_FALSE(fs::exists(f.dir / "mixed"));
  };
  refuses("[]", {"t.yaml", "data.train", "empty list"});
  refuses(fmt::format("[{{path: {}, weight: 0}}]", path), {"t.yaml", "data.train[0].weight"});
  refuses(fmt::format("[{}, {{path: {}, wieght: 1}}]", path, path), {"data.train[1].wieght"});
  refuses(fmt::format("[{}, {{path: {}, weight: 0.0001}}]", path, path), {"weight 0.0001"});
  refuses(fmt::format("[{}, {{task: mqar, vocab: 32, length: 16, pairs: 2}}]", path),
          {"different vocabularies"});
  refuses(fmt::format("[{}, {}]", path, (f.dir / "wide").string()), {"40 tokens"});
  refuses(fmt::format("[{}, {}]", path, (f.dir / "gone").string()), {"gone"});
}

TEST(TrainingData, LlmcShardsNeedTheirEos) {
  const Fixture f;
  std::string shard(1024 + 2 * 4000, '\0');
  const int32_t header[] = {20240520, 1, 4000};
  std::memcpy(shard.data(), header, sizeof header);
  for (size_t i = 0; i < 4000; ++i) shard[1024 + 2 * i] = static_cast<char>(i * i % 31);
  test::write_text(f.dir / "llmc.bin", shard);
  std::string text = f.yaml("llmc");
  const size_t data = text.find("data: {"), end = text.find('\n', data);
  const size_t cadence = text.find("validation: {every");
  text.erase(cadence, text.find('\n', cadence) + 1 - cadence);
  const std::string train = "data: {train: " + (f.dir / "llmc.bin").string();
  text.replace(data, end - data, train + "}");
  test::expect_error(ErrorCode::kRequest, {"llmc.bin", "eos_id"},
                     [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
  text.replace(text.find(train), train.size(), train + ", eos_id: 0");
  EXPECT_EQ(run_training(parse_yaml(text, "t.yaml"), {}).last.step, 12);
  shard[1024 + 2 * 3000] = 32;  // not below model.vocab_size
  test::write_text(f.dir / "llmc.bin", shard);
  fs::remove_all(f.dir / "llmc");
  text.replace(text.find("steps: 12"), 9, "steps: 99");
  test::expect_error(ErrorCode::kData, {"llmc.bin", "token 32"},
                     [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
}

}  // namespace
}  // namespace ashlar
