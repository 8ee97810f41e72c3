#include "data/shards/documents.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/base/rng.h"
#include "core/io/json.h"
#include "tests/data/prepare_support.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::gzip;
using test::TempDir;
using test::zstd;

std::vector<std::string> read_all(const std::vector<fs::path>& files) {
  DocumentReader reader(files);
  std::vector<std::string> documents;
  std::string document;
  while (reader.next(document)) documents.push_back(document);
  EXPECT_EQ(reader.consumed_bytes(), reader.total_bytes());
  return documents;
}

/// A large text whose compressed form spans many buffers.
std::string long_text(uint64_t seed, size_t size) {
  const Philox random(seed);
  std::string text;
  for (uint64_t i = 0; text.size() < size; ++i) text += fmt::format("{} ", random.bits(i));
  return text;
}

TEST(Documents, EveryContainerGivesTheSameText) {
  const TempDir dir;
  const std::string big = long_text(1, 3000000);
  test::write_text(dir / "a.txt", big);
  test::write_text(dir / "b.txt.gz", gzip(big.substr(0, 1000000)) + gzip(big.substr(1000000)));
  test::write_text(dir / "c.txt.zst", zstd(big.substr(0, 1000000)) + zstd(big.substr(1000000)));
  EXPECT_EQ(read_all({dir / "a.txt", dir / "b.txt.gz", dir / "c.txt.zst"}),
            (std::vector<std::string>{big, big, big}));

  std::string lines;
  std::vector<std::string> expected;
  for (size_t i = 0; i < 300; ++i) {
    expected.push_back(big.substr(i * 100, i * 31));
    Node row = Node::map();
    row.set("title", "x");
    row.set("text", expected.back() + "\n\"quoted\" é");
    expected.back() += "\n\"quoted\" é";
    lines += write_json(row) + (i % 7 == 0 ? "\r\n\n" : "\n");
  }
  lines.pop_back();  // no line break at the end
  test::write_text(dir / "d.jsonl", lines);
  test::write_text(dir / "e.jsonl.gz", gzip(lines));
  test::write_text(dir / "f.jsonl.zst", zstd(lines));
  for (const char* name : {"d.jsonl", "e.jsonl.gz", "f.jsonl.zst"}) {
    EXPECT_EQ(read_all({dir / name}), expected) << name;
  }
}

// A reader that begins where another one stopped reads the rest, in every container.
TEST(Documents, AFileIsContinuedAtAnyRecord) {
  const TempDir dir;
  std::string lines;
  for (size_t i = 0; i < 50; ++i) {
    lines +=
        write_json(Node::Map{{"text", long_text(i, 1 + i * 3000)}}) + (i % 5 == 0 ? "\n\n" : "\n");
  }
  test::write_text(dir / "a.jsonl", lines);
  test::write_text(dir / "b.jsonl.gz", gzip(lines));
  test::write_text(dir / "c.jsonl.zst", zstd(lines));
  for (const InputFile& file : list_inputs({dir.path()})) {
    std::vector<Record> whole;
    std::vector<RecordPosition> places = {{}};
    RecordReader reader(file, 1 << 20, false);
    for (Record record; reader.next(record);) {
      whole.push_back(record);
      places.push_back(reader.position());
    }
    ASSERT_EQ(whole.size(), 50u);
    for (size_t from = 0; from <= 50; from += 7) {
      RecordReader rest(file, 1 << 20, false, places[from]);
      size_t at = from;
      for (Record record; rest.next(record); ++at) {
        ASSERT_EQ(record.bytes, whole[at].bytes) << file.path << " from " << from;
        EXPECT_EQ(record.line, whole[at].line);
      }
      EXPECT_EQ(at, 50u);
    }
    const auto beyond = static_cast<int64_t>(lines.size()) + 1;
    expect_error(ErrorCode::kData, {file.path.filename(), "to be continued"}, [&] {
      RecordReader r(file, 1 << 20, false, {beyond, 99});
    });
  }
}

TEST(Documents, BadInputNamesFileAndLine) {
  const TempDir dir;
  const auto refuse = [&](ErrorCode code, const std::string& name, const std::string& content,
                          const std::vector<std::string>& why) {
    test::write_text(dir / name, content);
    expect_error(code, why, [&] { read_all({dir / name}); });
  };
  refuse(ErrorCode::kData, "a.jsonl", "{\"text\": \"x\"}\n\n{\"txt\": 1}\n", {"a.jsonl:3", "text"});
  refuse(ErrorCode::kData, "a.jsonl", "{\"text\": \"x\"}\n{", {"a.jsonl:2", "invalid JSON"});
  refuse(ErrorCode::kData, "a.jsonl", "[1]\n", {"a.jsonl:1"});
  refuse(ErrorCode::kData, "a.jsonl", "{\"text\": \"\xff\"}\n", {"a.jsonl:1"});
  refuse(ErrorCode::kData, "a.txt.gz", "not gzip", {"a.txt.gz", "gzip data is damaged"});
  refuse(ErrorCode::kData, "a.txt.zst", "not zstd", {"a.txt.zst", "zstd data is damaged"});
  const std::string text = long_text(2, 400000);
  refuse(ErrorCode::kData, "a.txt.gz", gzip(text).substr(0, 100000), {"gzip data is truncated"});
  refuse(ErrorCode::kData, "a.txt.zst", zstd(text).substr(0, 100000), {"zstd data is truncated"});
  refuse(ErrorCode::kRequest, "a.csv", "x", {"a.csv", ".txt or .jsonl"});
  expect_error(ErrorCode::kRequest, {"gone.txt", "no such file"},
               [&] { DocumentReader r({dir / "gone.txt"}); });
  expect_error(ErrorCode::kRequest, {"no input files"}, [] { DocumentReader r({}); });
}

}  // namespace
}  // namespace ashlar
