#include "data/shards/prepare_journal.h"

#include <gtest/gtest.h>

#include "core/io/json.h"
#include "tests/support/files.h"

// The folder of a preparation in each state that a kill can leave behind.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

const Node kRequest = Node::Map{{"seed", "1"}, {"share", 0.1}};

std::vector<InputFile> inputs() { return {{"a.txt", 10, 100, false}, {"b.jsonl", 20, 200, true}}; }

PrepareProgress some_progress() {
  PrepareProgress p;
  p.file = 1;
  p.place = {1234, 56};
  p.documents = 57;
  p.statistics.total = {"", 40, 4000, 9000, 5, 6, 4, 2};
  p.statistics.longest_tokens = 333;
  p.statistics.longest_document = "b.jsonl:7";
  p.statistics.files = {{"a.txt", 1, 100, 200, 0, 0, 0, 0},
                        {"b.jsonl", 39, 3900, 8800, 5, 6, 4, 2}};
  p.parts = {{{{"data-00000.h5", 3000, 30, 7000}}, {"", 900, 9, 1900}}, {{}, {"", 100, 1, 100}}};
  p.duplicate_keys = 40;
  return p;
}

TEST(PrepareJournal, RemembersEverything) {
  const TempDir dir;
  {
    PrepareFolder folder(dir / "out");
    EXPECT_FALSE(folder.load(kRequest, inputs()).has_value());
    fs::create_directories(folder.shards());
    folder.save(kRequest, inputs(), some_progress());
  }
  PrepareFolder folder(dir / "out");
  const auto p = folder.load(kRequest, inputs());
  ASSERT_TRUE(p.has_value());
  const PrepareProgress expected = some_progress();
  EXPECT_EQ(p->file, expected.file);
  EXPECT_EQ(p->place.offset, 1234);
  EXPECT_EQ(p->place.line, 56);
  EXPECT_EQ(p->documents, 57);
  EXPECT_EQ(write_json(to_node(p->statistics)), write_json(to_node(expected.statistics)));
  EXPECT_EQ(p->duplicate_keys, 40);
  EXPECT_FALSE(p->complete);
  ASSERT_EQ(p->parts.size(), 2u);
  ASSERT_EQ(p->parts[0].shards.size(), 1u);
  EXPECT_EQ(write_json(to_node(p->parts[0].shards[0])),
            write_json(to_node(expected.parts[0].shards[0])));
  EXPECT_EQ(write_json(to_node(p->parts[1].current)),
            write_json(to_node(expected.parts[1].current)));
}

TEST(PrepareJournal, InputsToComeMayChangeOthersNot) {
  const TempDir dir;
  PrepareFolder folder(dir / "out");
  fs::create_directories(folder.shards());
  PrepareProgress p = some_progress();
  p.place = {0, 0};  // nothing of the second file was read
  folder.save(kRequest, inputs(), p);
  std::vector<InputFile> files = inputs();
  files[1].modified = 300;
  EXPECT_TRUE(folder.load(kRequest, files).has_value());
  p.place = {20, 2};
  folder.save(kRequest, inputs(), p);
  expect_error(ErrorCode::kRequest, {"b.jsonl changed since it was read"},
               [&] { folder.load(kRequest, files); });
  files = inputs();
  files[0].bytes = 11;
  expect_error(ErrorCode::kRequest, {"a.txt changed"}, [&] { folder.load(kRequest, files); });
  files = inputs();
  std::swap(files[0], files[1]);
  expect_error(ErrorCode::kRequest, {"input file 1 was a.txt and is now b.jsonl"},
               [&] { folder.load(kRequest, files); });
}

// Complete, but the name was not given yet; then given, but the folder not removed yet.
TEST(PrepareJournal, TheLastRenameCanBeDoneAgain) {
  const TempDir dir;
  PrepareProgress p = some_progress();
  p.complete = true;
  {
    PrepareFolder folder(dir / "out");
    fs::create_directories(folder.shards());
    test::write_text(folder.shards() / "data-00000.h5", "tokens");
    test::write_text(folder.shards() / "tokens-00000.raw.tmp", "left over");
    test::write_text(folder.keys(), "keys");
    folder.save(kRequest, inputs(), p);
  }
  {
    PrepareFolder folder(dir / "out");
    ASSERT_TRUE(folder.load(kRequest, inputs())->complete);
    folder.publish();
  }
  EXPECT_EQ(test::read_text(dir / "out" / "data-00000.h5"), "tokens");
  EXPECT_FALSE(fs::exists(dir / "out" / "tokens-00000.raw.tmp"));
  EXPECT_FALSE(fs::exists(dir / "out.partial"));

  const auto leave_journal = [&] {
    fs::create_directories(dir / "out.partial");
    test::write_text(dir / "out.partial" / ".lock", "");
    const TempDir other;
    PrepareFolder folder(other / "x");
    folder.save(kRequest, inputs(), p);
    fs::copy_file(folder.path() / "journal.json", dir / "out.partial" / "journal.json");
  };
  leave_journal();
  {
    PrepareFolder folder(dir / "out");
    ASSERT_TRUE(folder.load(kRequest, inputs())->complete);
    folder.publish();
  }
  EXPECT_EQ(test::read_text(dir / "out" / "data-00000.h5"), "tokens");
  EXPECT_FALSE(fs::exists(dir / "out.partial"));

  // Somebody took the output away since: nothing is left to continue.
  leave_journal();
  fs::remove_all(dir / "out");
  EXPECT_FALSE(PrepareFolder(dir / "out").load(kRequest, inputs()).has_value());
}

TEST(PrepareJournal, OnlyALockBesideAnOutputIsSweptAway) {
  const TempDir dir;
  fs::create_directories(dir / "out");
  fs::create_directories(dir / "out.partial");
  test::write_text(dir / "out.partial" / ".lock", "");
  expect_error(ErrorCode::kRequest, {"out", "exists already"},
               [&] { PrepareFolder f(dir / "out"); });
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
  EXPECT_TRUE(fs::exists(dir / "out"));
}

TEST(PrepareJournal, ADamagedJournalIsNamed) {
  const TempDir dir;
  PrepareFolder folder(dir / "out");
  fs::create_directories(folder.shards());
  folder.save(kRequest, inputs(), some_progress());
  const fs::path path = folder.path() / "journal.json";
  const std::string good = test::read_text(path);
  test::write_text(path, good.substr(0, good.size() / 2));
  expect_error(ErrorCode::kData, {"journal.json"}, [&] { folder.load(kRequest, inputs()); });
  test::write_text(path, "{\"format\": \"ashlar-prepare-9\"}");
  expect_error(ErrorCode::kData, {"journal.json", "another version"},
               [&] { folder.load(kRequest, inputs()); });
}

}  // namespace
}  // namespace ashlar
