#include "train/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

CheckpointManifest manifest_at(int64_t step) {
  CheckpointManifest m;
  m.position = {step, step * 100, step * 4, 0xfedcba9876543210u, step * 10};
  m.spec = test::small_block();
  m.eos_id = 2;
  m.config = Node::Map{{"train", Node::Map{{"lr", 0.1}, {"seed", 7}}}};
  return m;
}

void save(const fs::path& run, int64_t step) {
  CheckpointWriter writer(run, step);
  const std::vector<float> w = {1, 2, 3, 4, 5, static_cast<float>(step)}, m = {-0.5f};
  writer.write("parameters/a.weight", {2, 3}, w);
  writer.write("optimizer/exp_avg/a.weight", {1}, m);
  writer.commit(manifest_at(step));
}

std::string folder_of(int64_t step) { return fmt::format("checkpoints/step_{:08}", step); }

void flip(const fs::path& file, size_t offset, char mask = 0x10) {
  std::string bytes = test::read_text(file);
  bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ mask);
  test::write_text(file, bytes);
}

TEST(Checkpoint, HoldsWhatWasWritten) {
  const test::TempDir run;
  save(run.path(), 3);
  for (const fs::path& path : {run.path(), run.path() / folder_of(3)}) {
    const CheckpointReader reader(path);
    EXPECT_EQ(reader.manifest().position, manifest_at(3).position);
    EXPECT_EQ(reader.spec(), test::small_block());
    EXPECT_EQ(reader.manifest().eos_id, 2);
    EXPECT_EQ(reader.manifest().config.find("train")->find("lr")->as_double(), 0.1);
    EXPECT_EQ(reader.names(),
              (std::vector<std::string>{"optimizer/exp_avg/a.weight", "parameters/a.weight"}));
    EXPECT_EQ(reader.shape("parameters/a.weight"), (std::vector<int64_t>{2, 3}));
    std::vector<float> w(6);
    reader.read("parameters/a.weight", w);
    EXPECT_EQ(w, (std::vector<float>{1, 2, 3, 4, 5, 3}));
    EXPECT_EQ(reader.tokenizer_path(), fs::canonical(run.path()) / "tokenizer.json");
    std::vector<float> wrong(5);
    test::expect_error(ErrorCode::kData, {"parameters/a.weight", "6 elements", "expected 5"},
                       [&] { reader.read("parameters/a.weight", wrong); });
  }
}

TEST(Checkpoint, NothingExistsBeforeTheManifest) {
  const test::TempDir run;
  save(run.path(), 1);
  {
    CheckpointWriter unfinished(run.path(), 2);
    const std::vector<float> w = {1};
    unfinished.write("parameters/a", {1}, w);
    EXPECT_EQ(newest_checkpoint(run.path())->filename(), "step_00000001");
  }
  EXPECT_FALSE(fs::exists(run.path() / folder_of(2)));
}

TEST(Checkpoint, TheNewestThatVerifiesIsTaken) {
  using Damage = std::function<void(const fs::path&)>;
  const std::vector<std::pair<std::string, Damage>> damages = {
      {"no manifest", [](const fs::path& c) { fs::remove(c / "manifest.json"); }},
      {"no data", [](const fs::path& c) { fs::remove(c / "rank_00000.h5"); }},
      {"truncated",
       [](const fs::path& c) {
         fs::resize_file(c / "rank_00000.h5", fs::file_size(c / "rank_00000.h5") - 1);
       }},
      {"longer",
       [](const fs::path& c) {
         fs::resize_file(c / "rank_00000.h5", fs::file_size(c / "rank_00000.h5") + 1);
       }},
      {"torn manifest",
       [](const fs::path& c) {
         fs::resize_file(c / "manifest.json", fs::file_size(c / "manifest.json") / 2);
       }},
      {"empty manifest", [](const fs::path& c) { test::write_text(c / "manifest.json", ""); }},
      {"foreign manifest", [](const fs::path& c) { test::write_text(c / "manifest.json", "[1]"); }},
  };
  for (const auto& [name, damage] : damages) {
    const test::TempDir run;
    save(run.path(), 5);
    save(run.path(), 10);
    damage(run.path() / folder_of(10));
    EXPECT_EQ(newest_checkpoint(run.path())->filename(), "step_00000005") << name;
    EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 5) << name;
    EXPECT_THROW(CheckpointReader(run.path() / folder_of(10)), Error) << name;
  }
}

TEST(Checkpoint, EveryFlippedBitIsFound) {
  const test::TempDir run;
  save(run.path(), 5);
  const fs::path folder = run.path() / folder_of(5);
  for (const char* name : {"rank_00000.h5", "manifest.json"}) {
    const auto size = static_cast<size_t>(fs::file_size(folder / name));
    for (size_t at = 0; at < size; at += std::max<size_t>(1, size / 97)) {
      const char before = test::read_text(folder / name)[at];
      if (before == ' ' || before == '\n') continue;  // white space between JSON tokens
      flip(folder / name, at);
      EXPECT_THROW(verify_checkpoint(folder), Error) << name << " at " << at;
      flip(folder / name, at);
    }
  }
  EXPECT_EQ(verify_checkpoint(folder).position.step, 5);
}

TEST(Checkpoint, DamageIsNamed) {
  const test::TempDir run;
  save(run.path(), 5);
  const fs::path folder = run.path() / folder_of(5);
  flip(folder / "rank_00000.h5", 700);
  test::expect_error(ErrorCode::kData, {"rank_00000.h5", "SHA-256"},
                     [&] { CheckpointReader{folder}; });
  test::expect_error(ErrorCode::kRequest, {"no checkpoint that verifies"},
                     [&] { CheckpointReader{run.path()}; });
  test::expect_error(ErrorCode::kRequest, {"no such run"},
                     [&] { CheckpointReader{run.path() / "nothing"}; });
  test::expect_error(ErrorCode::kRequest, {"neither a run folder"},
                     [&] { CheckpointReader{run.path() / "checkpoints"}; });
}

TEST(Checkpoint, ManifestsFromStrangersAreChecked) {
  Node node = to_node(manifest_at(1));
  node.set("format", 2);
  test::expect_error(ErrorCode::kData, {"newer than this program"},
                     [&] { manifest_from_node(node); });
  node = to_node(manifest_at(1));
  node.find("position")->set("seed", "99999999999999999999");
  test::expect_error(ErrorCode::kData, {"exceeds 64 bits"}, [&] { manifest_from_node(node); });
  node = to_node(manifest_at(1));
  node.find("files")->push(Node::Map{{"name", "../x"}, {"bytes", 1}, {"sha256", ""}});
  test::expect_error(ErrorCode::kData, {"'../x' is not a plain file name"},
                     [&] { manifest_from_node(node); });
}

TEST(Checkpoint, RetentionKeepsTheNewest) {
  const test::TempDir run;
  for (const int64_t step : {1, 2, 3, 4}) save(run.path(), step);
  fs::remove(run.path() / folder_of(2) / "manifest.json");
  retain_checkpoints(run.path(), 2);
  EXPECT_FALSE(fs::exists(run.path() / folder_of(1)));
  EXPECT_FALSE(fs::exists(run.path() / folder_of(2)));
  EXPECT_TRUE(fs::exists(run.path() / folder_of(3)));
  EXPECT_TRUE(fs::exists(run.path() / folder_of(4)));
  save(run.path(), 4);  // saving a step again replaces it
  EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 4);
}

}  // namespace
}  // namespace ashlar
