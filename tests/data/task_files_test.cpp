#include "data/tasks/task_files.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <set>

#include "core/base/rng.h"
#include "data/tasks/zip_archive.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::read_text;
using test::shared_data;
using test::TempDir;
using test::write_text;

const char* const kTiny = "tests/data/blimp_tiny.zip";

// Places of the archive's directory entries (APPNOTE 4.3.12).
std::vector<size_t> directory_entries(const std::string& zip) {
  std::vector<size_t> out;
  for (size_t at = 0; (at = zip.find("PK\x01\x02", at)) != std::string::npos; ++at) {
    out.push_back(at);
  }
  return out;
}

void put(std::string& bytes, size_t at, uint32_t value, size_t size) {
  std::memcpy(bytes.data() + at, &value, size);
}

TEST(ZipArchive, ReadsMembers) {
  ZipArchive archive(kTiny);
  std::map<std::string, std::string> texts;
  for (size_t i = archive.members().size(); i-- > 0;) {
    texts[archive.members()[i].name] = archive.read(i);
    EXPECT_EQ(std::ssize(texts[archive.members()[i].name]), archive.members()[i].size);
  }
  EXPECT_EQ(texts.size(), 5u) << "the folder is none";
  EXPECT_EQ(texts["data/readme.txt"], "not a set");
  EXPECT_NE(texts["data/noun_2.jsonl"].find("These dogs bark."), std::string::npos) << "stored";
  EXPECT_NE(texts["data/noun_1.jsonl"].find("Cats sleep."), std::string::npos) << "deflated";
}

TEST(ZipArchive, HostileFiles) {
  const TempDir folder;
  const auto path = folder / "hostile.zip";
  const std::string good = read_text(kTiny);
  const auto refuse = [&](const std::string& bytes, const std::vector<std::string>& why) {
    write_text(path, bytes);
    std::vector<std::string> fragments = why;
    fragments.push_back("hostile.zip");
    expect_error(ErrorCode::kData, fragments, [&] { read_blimp(path); });
  };
  const size_t entry = directory_entries(good).at(1);  // data/wh.jsonl
  refuse("", {"not a ZIP archive"});
  refuse("no archive", {"not a ZIP archive"});
  refuse(good.substr(0, good.size() / 2), {"not a ZIP archive"});
  const auto patched = [&](size_t offset, uint32_t value, size_t size) {
    std::string bytes = good;
    put(bytes, entry + offset, value, size);
    return bytes;
  };
  refuse(patched(8, 1, 2), {"data/wh.jsonl", "encrypted"});
  refuse(patched(10, 12, 2), {"data/wh.jsonl", "method 12"});
  refuse(patched(16, 0x12345678, 4), {"data/wh.jsonl", "damaged"});
  refuse(patched(20, 7, 4), {"data/wh.jsonl", "damaged"});
  refuse(patched(24, 7, 4), {"data/wh.jsonl", "damaged"});
  refuse(patched(24, 0x7fffffff, 4), {"data/wh.jsonl", "2147483647 bytes, at most"});
  refuse(patched(42, 0x00ffffff, 4), {"data/wh.jsonl", "damaged"});
  std::string broken = good;
  broken[good.find("wh.jsonl") + 20] ^= 0x55;
  refuse(broken, {"data/wh.jsonl", "damaged"});
  broken = good;
  broken[good.find("dogs bark")] = 'h';  // a stored member: only the checksum tells
  refuse(broken, {"data/noun_2.jsonl", "damaged"});
  expect_error(ErrorCode::kRequest, {"no such file"}, [&] { read_blimp(folder / "none.zip"); });
}

// Whatever single bytes are changed, reading ends in pairs or in an Error.
TEST(ZipArchive, SurvivesDamageAnywhere) {
  const TempDir folder;
  const std::string good = read_text(kTiny);
  const Philox random(11);
  int64_t refused = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    std::string bytes = good;
    for (uint64_t k = 0; k < 1 + i % 3; ++k) {
      bytes[random.below(8 * i + k, bytes.size())] = static_cast<char>(random.bits(8 * i + 4 + k));
    }
    write_text(folder / "x.zip", bytes);
    try {
      read_blimp(folder / "x.zip");
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 150);
}

TEST(TaskFiles, NamesInArchivesAreOnlyNames) {
  std::string zip = read_text(kTiny);
  for (size_t at = 0; (at = zip.find("data/wh", at)) != std::string::npos; ++at) {
    zip.replace(at, 7, "../../w");
  }
  const TempDir folder;
  write_text(folder / "x.zip", zip);
  EXPECT_EQ(read_blimp(folder / "x.zip").size(), 5u);
}

TEST(TaskFiles, BlimpIsSortedByPhenomenonAndSet) {
  const auto pairs = read_blimp(kTiny);
  std::vector<std::string> order;
  for (const MinimalPair& pair : pairs) order.push_back(pair.phenomenon + "/" + pair.set);
  EXPECT_EQ(order,
            (std::vector<std::string>{"agreement/noun_1", "agreement/noun_1", "agreement/noun_2",
                                      "agreement/noun_2", "islands/wh"}));
  EXPECT_EQ(pairs[0].good, "Cats sleep.");
  EXPECT_EQ(read_blimp(kTiny, 1).size(), 3u);
}

TEST(TaskFiles, RealBlimp) {
  const auto path = shared_data("blimp.zip");
  if (path.empty()) GTEST_SKIP() << "no blimp.zip";
  const auto pairs = read_blimp(path);
  EXPECT_EQ(pairs.size(), 67000u);
  std::set<std::string> sets, phenomena;
  for (const MinimalPair& pair : pairs) {
    sets.insert(pair.set);
    phenomena.insert(pair.phenomenon);
  }
  EXPECT_EQ(sets.size(), 67u);
  EXPECT_EQ(phenomena.size(), 13u) << "the paper's twelve; the files write s-selection apart";
}

TEST(TaskFiles, RealLambada) {
  const auto path = shared_data("lambada_openai.jsonl");
  if (path.empty()) GTEST_SKIP() << "no lambada_openai.jsonl";
  const auto items = read_continuations(path);
  EXPECT_EQ(items.size(), 5153u);
  EXPECT_EQ(items[0].continuation, "signs");
}

TEST(TaskFiles, CleaningOfHellaSwag) {
  EXPECT_EQ(clean_hellaswag("  a [title] b [step] c  d "), "a. b c d");
  EXPECT_EQ(clean_hellaswag("x [one [two] three] y"), "x three] y");
  EXPECT_EQ(clean_hellaswag("[open\n] end"), "[open\n] end") << "a bracket stays on its line";
  EXPECT_EQ(clean_hellaswag("a   b"), "a  b") << "each pair of spaces once";
  EXPECT_EQ(capitalize("élan VITAL"), "Élan vital");
  EXPECT_EQ(capitalize(""), "");
}

}  // namespace
}  // namespace ashlar
