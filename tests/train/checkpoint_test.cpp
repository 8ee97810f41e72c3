#include "train/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <set>

#include "core/hdf5/hdf5.h"
#include "core/io/json.h"
#include "core/io/sha256.h"
#include "tests/train/checkpoint_fixture.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

using test::flip;
using test::manifest_at;

void save(const fs::path& run, int64_t step) {
  LocalStore store;
  CheckpointSaver saver(test::saver_options(run), store);
  const std::vector<float> w = {1, 2, 3, 4, 5, static_cast<float>(step)}, m = {-0.5f};
  Snapshot snapshot;
  snapshot.add("parameters/a.weight", {2, 3}, 0, w);
  snapshot.add("optimizer/exp_avg/a.weight", {1}, 0, m);
  saver.save(manifest_at(step), std::move(snapshot));
  ASSERT_TRUE(saver.finish().at(0).ok);
}

std::string folder_of(int64_t step) { return fmt::format("checkpoints/step_{:08}", step); }

TEST(Checkpoint, HoldsWhatWasWritten) {
  const test::TempDir run;
  save(run.path(), 3);
  for (const fs::path& path : {run.path(), run.path() / folder_of(3)}) {
    const CheckpointReader reader(path);
    EXPECT_EQ(reader.manifest().position, manifest_at(3).position);
    EXPECT_EQ(reader.spec(), test::small_block());
    EXPECT_EQ(reader.manifest().eos_id, 2);
    EXPECT_EQ(reader.manifest().config.find("train")->find("lr")->as_double(), 0.1);
    EXPECT_EQ(write_json(reader.manifest().state), write_json(manifest_at(3).state));
    EXPECT_TRUE(reader.has("parameters/a.weight"));
    EXPECT_FALSE(reader.has("parameters/b"));
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

TEST(Checkpoint, FormatOneIsRead) {
  const test::TempDir run;
  const fs::path folder = run.path() / folder_of(7);
  fs::create_directories(folder);
  const std::vector<float> w = {1, 2, 3, 4, 5, 6};
  H5File file = H5File::create(folder / "rank_00000.h5");
  file.write<float>("parameters/a.weight", {2, 3}, w);
  file.close();
  CheckpointManifest manifest = manifest_at(7);
  manifest.files = {{"rank_00000.h5", static_cast<int64_t>(fs::file_size(file.path())),
                     sha256_file(file.path())}};
  Node node = to_node(manifest);
  node.set("format", 1);
  std::erase_if(node.as_map(), [](const auto& entry) { return entry.first == "state"; });
  const std::string bare = write_json(node);
  node.set("digest", sha256_hex(std::as_bytes(std::span(bare))));
  test::write_text(folder / "manifest.json", write_json(node, 1));
  const CheckpointReader reader(run.path());
  EXPECT_EQ(reader.manifest().position, manifest.position);
  EXPECT_TRUE(reader.manifest().state.as_map().empty());
  std::vector<float> out(6);
  reader.read("parameters/a.weight", out);
  EXPECT_EQ(out, w);
}

TEST(Checkpoint, ManifestsFromStrangersAreChecked) {
  const std::string sha(64, 'a');
  const auto entry = [&](const char* name, int64_t bytes, const std::string& digest) {
    return Node::Map{{"name", name}, {"bytes", bytes}, {"sha256", digest}};
  };
  using Change = std::function<void(Node&)>;
  const std::vector<std::pair<std::string, Change>> cases = {
      {"newer than this program", [](Node& n) { n.set("format", 3); }},
      {"exceeds 64 bits", [](Node& n) { n.find("position")->set("seed", "99999999999999999999"); }},
      {"not a number", [](Node& n) { n.find("position")->set("seed", "-1"); }},
      {"position.step", [](Node& n) { n.find("position")->set("step", -1); }},
      {"position.next_sample", [](Node& n) { n.find("position")->set("next_sample", -4); }},
      {"manifest.world", [](Node& n) { n.set("world", int64_t{1000000000}); }},
      {"manifest.world", [](Node& n) { n.set("world", 0); }},
      {"'../x' is not a plain file name",
       [&](Node& n) { n.find("files")->push(entry("../x", 1, sha)); }},
      {"'..' is not a plain file name",
       [&](Node& n) { n.find("files")->push(entry("..", 1, sha)); }},
      {"is not a plain file name", [&](Node& n) { n.find("files")->push(entry("a/b", 1, sha)); }},
      {"is not a plain file name", [&](Node& n) { n.find("files")->push(entry("", 1, sha)); }},
      {"files.bytes", [&](Node& n) { n.find("files")->push(entry("x.h5", -1, sha)); }},
      {"is not a SHA-256", [&](Node& n) { n.find("files")->push(entry("x.h5", 1, "abc")); }},
      {"x.h5 twice",
       [&](Node& n) {
         n.find("files")->push(entry("x.h5", 1, sha));
         n.find("files")->push(entry("x.h5", 1, sha));
       }},
      {"expected a list", [](Node& n) { n.set("files", "all"); }},
      {"stranger", [](Node& n) { n.set("stranger", 1); }},
  };
  for (const auto& [message, change] : cases) {
    const test::TempDir run;
    save(run.path(), 1);
    const fs::path path = run.path() / folder_of(1) / "manifest.json";
    Node node = load_json(path);
    std::erase_if(node.as_map(), [](const auto& e) { return e.first == "digest"; });
    change(node);
    const std::string bare = write_json(node);
    node.set("digest", sha256_hex(std::as_bytes(std::span(bare))));
    test::write_text(path, write_json(node));
    test::expect_error(ErrorCode::kData, {"manifest.json", message},
                       [&] { CheckpointReader{path.parent_path()}; });
    EXPECT_FALSE(newest_checkpoint(run.path()).has_value()) << message;
  }
}

TEST(Checkpoint, RetentionKeepsTheNewestAndThoseForGood) {
  const test::TempDir run;
  for (const int64_t step : {2, 4, 5, 6, 7, 8}) save(run.path(), step);
  fs::remove(run.path() / folder_of(6) / "manifest.json");
  fs::create_directories(run.path() / (folder_of(7) + ".partial"));
  fs::create_directories(run.path() / "checkpoints/mine");
  const auto left = [&] {
    std::set<std::string> names;
    for (const auto& e : fs::directory_iterator(run.path() / "checkpoints")) {
      names.insert(e.path().filename().string());
    }
    return names;
  };
  retain_checkpoints(run.path(), {2, 4}, 8);
  EXPECT_EQ(left(),
            (std::set<std::string>{"mine", "step_00000004", "step_00000007", "step_00000008"}));
  retain_checkpoints(run.path(), {1, 0}, 7);  // the run went back and wrote step 7 again
  EXPECT_EQ(left(), (std::set<std::string>{"mine", "step_00000007"}));
  save(run.path(), 7);  // saving a step again replaces it
  save(run.path(), 9);
  EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 9);
}

TEST(Checkpoint, TheOneThatWasBeingReplacedIsFound) {
  const test::TempDir run;
  save(run.path(), 4);
  save(run.path(), 5);
  fs::rename(run.path() / folder_of(5), run.path() / (folder_of(5) + ".old"));
  EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 5);
  save(run.path(), 5);
  EXPECT_FALSE(fs::exists(run.path() / (folder_of(5) + ".old")));
  EXPECT_EQ(newest_checkpoint(run.path()), run.path() / folder_of(5));
}

}  // namespace
}  // namespace ashlar
