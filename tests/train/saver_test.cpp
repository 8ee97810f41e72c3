#include "train/checkpoint/saver.h"

#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "core/hdf5/hdf5.h"
#include "core/io/json.h"
#include "core/io/sha256.h"
#include "tests/support/tolerance.h"
#include "tests/train/checkpoint_fixture.h"
#include "train/checkpoint/folders.h"
#include "train/checkpoint/shard.h"

// Ranks are threads of this process that share a LocalStore.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Outcome = CheckpointSaver::Outcome;

struct Case {
  std::string name;
  std::vector<int64_t> shape;
  int64_t numel() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
};

// Odd sizes, a scalar, an empty tensor, fewer elements than ranks, and one that is written in
// slices.
const std::vector<Case> kTensors = {
    {"parameters/a", {13, 7}},          {"parameters/b.bias", {2}},
    {"parameters/deep/er", {3, 5, 11}}, {"parameters/large", {1031, 1033}},
    {"optimizer/scalar", {}},           {"optimizer/empty", {0, 4}}};

float value_of(size_t tensor, int64_t element) {
  return static_cast<float>(element % 100003) + static_cast<float>(tensor) * 0.125f;
}

void save_all(const fs::path& run, int64_t world) {
  LocalStore store;
  test::on_ranks(world, [&](int64_t rank) {
    CheckpointSaver saver(test::saver_options(run, rank, world), store);
    Snapshot snapshot;
    for (size_t t = 0; t < kTensors.size(); ++t) {
      const auto value = [&](int64_t i) { return value_of(t, i); };
      test::add_share(snapshot, kTensors[t].name, kTensors[t].shape, rank, world, value);
      // Replicas: every other rank also holds all of the second tensor.
      if (t == 1 && rank % 2 == 1) {
        test::add_share(snapshot, kTensors[t].name, kTensors[t].shape, 0, 1, value);
        snapshot.pieces.erase(snapshot.pieces.end() - 2);
      }
    }
    saver.save(test::manifest_at(3), std::move(snapshot));
    const std::vector<Outcome> outcomes = saver.finish();
    ASSERT_EQ(outcomes.size(), 1u);
    EXPECT_TRUE(outcomes[0].ok) << outcomes[0].reason;
    EXPECT_EQ(outcomes[0].step, 3);
    EXPECT_GT(outcomes[0].bytes, 4 * 1031 * 1033);
  });
}

TEST(Saver, AnyNumberOfRanksReadsWhatAnyNumberWrote) {
  for (int64_t world = 1; world <= 4; ++world) {
    const test::TempDir run;
    save_all(run.path(), world);
    const CheckpointReader whole(run.path());
    EXPECT_EQ(whole.manifest().world, world);
    EXPECT_EQ(whole.names().size(), kTensors.size());
    for (int64_t readers = 1; readers <= 3; ++readers) {
      test::on_ranks(readers, [&](int64_t rank) {
        const CheckpointReader reader(run.path());
        for (size_t t = 0; t < kTensors.size(); ++t) {
          const int64_t numel = kTensors[t].numel();
          EXPECT_EQ(reader.shape(kTensors[t].name), kTensors[t].shape);
          const int64_t first = numel * rank / readers, end = numel * (rank + 1) / readers;
          std::vector<float> out(static_cast<size_t>(end - first)), expected;
          for (int64_t i = first; i < end; ++i) expected.push_back(value_of(t, i));
          reader.read(kTensors[t].name, first, out);
          EXPECT_TRUE(test::within(out, expected, test::exact())) << kTensors[t].name;
        }
      });
    }
    const Philox random(9);
    for (uint64_t n = 0; n < 60; ++n) {  // any run at all
      const size_t t = n % kTensors.size();
      const auto numel = static_cast<uint64_t>(kTensors[t].numel());
      const uint64_t first = random.below(2 * n, numel + 1);
      const uint64_t count = random.below(2 * n + 1, std::min<uint64_t>(5000, numel - first) + 1);
      std::vector<float> out(count), expected;
      for (uint64_t i = 0; i < count; ++i) {
        expected.push_back(value_of(t, static_cast<int64_t>(first + i)));
      }
      whole.read(kTensors[t].name, static_cast<int64_t>(first), out);
      EXPECT_TRUE(test::within(out, expected, test::exact())) << kTensors[t].name << first;
    }
  }
}

void write_by_hand(const fs::path& run, const std::vector<std::vector<TensorPiece>>& ranks) {
  const fs::path folder = test::step_folder(run, 1);
  fs::create_directories(folder);
  LocalStore store;
  test::on_ranks(static_cast<int64_t>(ranks.size()), [&](int64_t rank) {
    CheckpointSaver saver(test::saver_options(run, rank, static_cast<int64_t>(ranks.size())),
                          store);
    Snapshot snapshot;
    for (const TensorPiece& p : ranks[static_cast<size_t>(rank)]) {
      snapshot.add(p.name, p.shape, p.first, p.values);
    }
    saver.save(test::manifest_at(1), std::move(snapshot));
    ASSERT_TRUE(saver.finish().at(0).ok);
  });
}

TEST(Saver, GapsAndContradictionsAreNamed) {
  const std::vector<float> v = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const auto piece = [&](int64_t first, size_t count, std::vector<int64_t> shape = {4, 3}) {
    return TensorPiece{"parameters/w", std::move(shape), first,
                       std::span(v).subspan(static_cast<size_t>(first), count)};
  };
  {
    const test::TempDir run;  // overlapping, out of order, with a hole at 7 and 8
    write_by_hand(run.path(), {{piece(9, 3), piece(0, 4)}, {piece(2, 5), piece(3, 1)}});
    const CheckpointReader reader(run.path());
    std::vector<float> out(7), all(12), behind(2);
    reader.read("parameters/w", 0, out);
    EXPECT_TRUE(test::within(out, std::vector<float>(v.begin(), v.begin() + 7), test::exact()));
    test::expect_error(ErrorCode::kData, {"parameters/w", "elements 7 to 8 (of 12)"},
                       [&] { reader.read("parameters/w", all); });
    test::expect_error(ErrorCode::kData, {"parameters/w", "11+2"},
                       [&] { reader.read("parameters/w", 11, behind); });
    test::expect_error(ErrorCode::kData, {"no file holds a tensor 'parameters/x'"},
                       [&] { reader.shape("parameters/x"); });
  }
  {
    const test::TempDir run;
    write_by_hand(run.path(), {{piece(0, 6)}, {piece(6, 6, {3, 4})}});
    test::expect_error(ErrorCode::kData, {"rank_00001.h5", "parameters/w", "[3, 4]", "[4, 3]"},
                       [&] { CheckpointReader{run.path()}; });
  }
}

// A file whose digest is right and whose content is not: nobody but a program wrote it.
TEST(Saver, AbsurdPiecesAreRefused) {
  using Change = std::function<void(H5File&)>;
  const auto attributes = [](int64_t first, const std::string& shape, const std::string& name) {
    return [=](H5File& file) {
      const std::vector<float> v = {1, 2};
      file.write<float>(name, {2}, v);
      file.set_attribute(name, "first", first);
      file.set_attribute(name, "shape", shape);
    };
  };
  const std::vector<std::pair<std::string, Change>> cases = {
      {"elements -1+2", attributes(-1, "4", "w@-1")},
      {"elements 3+2 of a tensor of 4", attributes(3, "4", "w@3")},
      {"overflows", attributes(0, "4294967296,4294967296,4294967296", "w@0")},
      {"no list of sizes", attributes(0, "4,,4", "w@0")},
      {"no list of sizes", attributes(0, "-4", "w@0")},
      {"no list of sizes", attributes(0, "", "w@0")},
      {"its name does not say", attributes(1, "4", "w@0")},
      {"expected F32",
       [](H5File& file) {
         const std::vector<double> v = {1};
         file.write<double>("w", {1}, v);
       }},
      {"one dimension",
       [](H5File& file) {
         const std::vector<float> v = {1};
         file.write<float>("w@0", {1, 1}, v);
         file.set_attribute("w@0", "first", int64_t{0});
       }},
  };
  for (const auto& [message, change] : cases) {
    const test::TempDir run;
    test::save_step(run.path(), 1);
    const fs::path folder = test::step_folder(run.path(), 1);
    H5File file = H5File::create(folder / "rank_00000.h5");
    change(file);
    file.close();
    Node node = load_json(folder / "manifest.json");
    std::erase_if(node.as_map(), [](const auto& e) { return e.first == "digest"; });
    CheckpointManifest manifest = manifest_from_node(node);
    manifest.files[0].bytes = static_cast<int64_t>(fs::file_size(file.path()));
    manifest.files[0].sha256 = sha256_file(file.path());
    checkpoint_folders::write_manifest(folder, manifest);
    test::expect_error(ErrorCode::kData, {"rank_00000.h5", message},
                       [&] { CheckpointReader{run.path()}; });
  }
}

TEST(Saver, DamageOfAnyFileIsNamedAndFallenBackFrom) {
  const test::TempDir run;
  test::save_step(run.path(), 5, 3);
  test::save_step(run.path(), 10, 3);
  const fs::path folder = test::step_folder(run.path(), 10);
  const CheckpointManifest manifest = verify_checkpoint(folder);
  const auto check = [&](const std::string& name, const std::string& what) {
    const test::LogCapture log;
    EXPECT_EQ(newest_checkpoint(run.path()), test::step_folder(run.path(), 5)) << name << what;
    EXPECT_NE(log.text().find("step_00000010/" + name), std::string::npos) << log.text();
    if (name == "manifest.json") return;
    for (int64_t rank = 0; rank < 3; ++rank) {  // only the rank whose share it is sees it
      const auto error = verify_files(manifest, folder, rank, 3);
      EXPECT_EQ(error.has_value(), name == rank_file_name(rank));
    }
    EXPECT_TRUE(verify_files(manifest, folder, 0, 1).has_value());
  };
  for (const std::string name :
       {"rank_00000.h5", "rank_00001.h5", "rank_00002.h5", "manifest.json"}) {
    const std::string whole = test::read_text(folder / name);
    const size_t stride = std::max<size_t>(1, whole.size() / 41);
    for (size_t at = 0; at < whole.size(); at += stride) {
      if (whole[at] != ' ' && whole[at] != '\n') {  // white space between JSON tokens
        test::flip(folder / name, at, static_cast<char>(1 << at % 7));
        check(name, fmt::format(" bit at {}", at));
      }
      test::write_text(folder / name, whole.substr(0, at));
      check(name, fmt::format(" cut to {}", at));
      test::write_text(folder / name, whole);
    }
    fs::remove(folder / name);
    if (name == "manifest.json") {
      const test::LogCapture log;
      EXPECT_EQ(newest_checkpoint(run.path()), test::step_folder(run.path(), 5));
      EXPECT_NE(log.text().find("step_00000010: no manifest.json"), std::string::npos);
    } else {
      check(name, " gone");
    }
    test::write_text(folder / name, whole);
  }
  EXPECT_EQ(newest_checkpoint(run.path()), folder);
  EXPECT_EQ(CheckpointReader(folder, Verify::kSizes).manifest().position.step, 10);
}

TEST(Saver, RetainsAndGoesBack) {
  const test::TempDir run;
  const auto keep = [](SaverOptions& options) {
    options.keep = 2;
    options.keep_every = 4;
  };
  for (const int64_t step : {2, 4, 6, 8, 10, 12}) test::save_step(run.path(), step, 2, keep);
  const auto steps = [&] {
    std::vector<std::string> names;
    for (const fs::path& path : checkpoint_candidates(run.path())) {
      names.push_back(path.filename().string());
    }
    return names;
  };
  EXPECT_EQ(steps(), (std::vector<std::string>{"step_00000012", "step_00000010", "step_00000008",
                                               "step_00000004"}));
  test::save_step(run.path(), 6, 3, keep);  // those after it belong to a course that was left
  EXPECT_EQ(steps(), (std::vector<std::string>{"step_00000006", "step_00000004"}));
  EXPECT_EQ(CheckpointReader(run.path()).manifest().world, 3);
}

TEST(Saver, LeftoversOfACrashAreReplaced) {
  const test::TempDir run;
  fs::create_directories(test::step_folder(run.path(), 4));
  test::write_text(test::step_folder(run.path(), 4) / "rank_00000.h5", "half");
  fs::path partial = test::step_folder(run.path(), 4);
  partial += ".partial";
  fs::create_directories(partial);
  test::write_text(partial / "rank_00007.h5", "of a larger world");
  test::write_text(partial / "rank_00001.h5.tmp", "half");
  EXPECT_EQ(newest_checkpoint(run.path()), std::nullopt);
  EXPECT_TRUE(test::save_step(run.path(), 4, 2)[0].ok);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(test::step_folder(run.path(), 4))) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"manifest.json", "rank_00000.h5", "rank_00001.h5"}));
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_EQ(CheckpointReader(run.path()).manifest().position.step, 4);
}

TEST(Saver, SavesThatOverlapWaitAndKeepTheirOrder) {
  const test::TempDir run;
  LocalStore store;
  CheckpointSaver saver(test::saver_options(run.path(), 0, 2), store);
  const auto snapshot = [](int64_t rank) {
    Snapshot s;
    test::add_share(s, "parameters/a", {7, 5}, rank, 2, [](int64_t) { return 1.0f; });
    return s;
  };
  std::thread slow([&] {
    CheckpointSaver other(test::saver_options(run.path(), 1, 2), store);
    for (const int64_t step : {1, 2, 3}) {
      std::this_thread::sleep_for(100ms);
      other.save(test::manifest_at(step), snapshot(1));
    }
    EXPECT_TRUE(other.finish().back().ok);
  });
  const test::LogCapture log;
  const auto start = std::chrono::steady_clock::now();
  saver.save(test::manifest_at(1), snapshot(0));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 90ms);  // the other rank is not there yet
  EXPECT_TRUE(saver.poll().empty());
  saver.save(test::manifest_at(2), snapshot(0));
  const std::vector<Outcome> first = saver.poll();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].step, 1);
  EXPECT_TRUE(first[0].ok);
  EXPECT_NE(log.text().find("the checkpoint of step 2 waited"), std::string::npos) << log.text();
  saver.save(test::manifest_at(3), snapshot(0));
  const std::vector<Outcome> rest = saver.finish();
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].step, 2);
  EXPECT_EQ(rest[1].step, 3);
  slow.join();
}

}  // namespace
}  // namespace ashlar
