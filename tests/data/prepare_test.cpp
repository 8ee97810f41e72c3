#include "data/shards/prepare.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/io/folder_lock.h"
#include "data/shards/shard_set.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/data/prepare_support.h"

// Preparation as a whole: the same output whatever the threads, the memory and the interruptions.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

struct Place {
  TempDir dir;
  explicit Place(uint64_t documents = 60) {
    test::write_vocabulary(dir / "tokenizer.json");
    test::write_corpus(dir / "in", documents);
  }
  PrepareOptions options(const std::string& name) const {
    PrepareOptions out;
    out.inputs = {dir / "in"};
    out.tokenizer = dir / "tokenizer.json";
    out.output = dir / name;
    out.validation_share = 0.2;
    out.seed = 3;
    out.shard_tokens = 9000;
    out.duplicates.kind = Duplicates::kNear;
    out.checkpoint_bytes = 2000;
    out.threads = 2;
    return out;
  }
  fs::path partial(const std::string& name) const { return dir / (name + ".partial"); }
};

TEST(PrepareAtScale, ThreadsAndMemoryDoNotShowInTheOutput) {
  const Place s;
  std::map<std::string, std::string> expected;
  for (const int threads : {1, 2, 3, 8}) {
    PrepareOptions options = s.options("out" + std::to_string(threads));
    options.threads = threads;
    options.memory = threads == 3 ? 16 << 20 : 1 << 30;
    options.checkpoint_bytes = threads == 8 ? 1 : 1 << 30;
    prepare(options);
    const auto found = test::digests(options.output);
    EXPECT_GT(found.size(), 6u);  // several shards in both parts
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << threads << " threads";
    EXPECT_FALSE(fs::exists(s.partial("out" + std::to_string(threads))));
  }
}

// A document that is encoded on all cores by itself.
TEST(PrepareAtScale, ALongDocumentIsTheSameOnAnyNumberOfThreads) {
  const TempDir dir;
  test::write_vocabulary(dir / "tokenizer.json");
  const std::string text = test::random_words(6, 0, 700000);
  ASSERT_GT(text.size(), size_t{4} << 20);
  test::write_text(dir / "a.txt", text);
  for (const int threads : {1, 3}) {
    PrepareOptions options;
    options.inputs = {dir / "a.txt", dir / "a.txt"};
    options.tokenizer = dir / "tokenizer.json";
    options.output = dir / std::to_string(threads);
    options.threads = threads;
    prepare(options);
    const ShardSet shards(options.output);
    std::vector<int32_t> ids(static_cast<size_t>(shards.total_tokens() / 2 - 1));
    shards.read(0, ids);
    EXPECT_EQ(ids, load_tokenizer(options.output)->encode(text));
  }
  EXPECT_EQ(test::digests(dir / "1"), test::digests(dir / "3"));
}

TEST(PrepareAtScale, StatisticsAddUp) {
  const Place s;
  const PrepareResult result = prepare(s.options("out"));
  const PrepareStatistics& t = result.statistics;
  ASSERT_EQ(t.files.size(), 7u);
  EXPECT_EQ(t.files[0].file, "a.jsonl");
  EXPECT_EQ(t.files[6].file, "g.jsonl");
  // 60 lines a file, of which 4 are empty and 6 repeat one five lines before; 2 of those are both.
  for (size_t f : {0, 1, 2}) {
    EXPECT_EQ(t.files[f].documents + t.files[f].empty + t.files[f].exact_duplicates, 60) << f;
    EXPECT_EQ(t.files[f].empty, 4);
    EXPECT_GE(t.files[f].exact_duplicates, 5);
  }
  EXPECT_EQ(t.files[6].documents, 0);
  EXPECT_EQ(t.files[6].exact_duplicates, 56);
  EXPECT_EQ(t.files[4].empty, 1);
  int64_t tokens = 0, documents = 0, bytes = 0;
  for (const PreparedPart& part : result.parts) {
    tokens += part.total.tokens;
    documents += part.total.documents;
    bytes += part.total.source_bytes;
    const ShardSet shards(part.folder);
    EXPECT_EQ(shards.total_tokens(), part.total.tokens);
  }
  EXPECT_EQ(t.total.tokens, tokens);
  EXPECT_EQ(t.total.documents, documents);
  EXPECT_EQ(t.total.bytes, bytes);
  const auto tokenizer = load_tokenizer(s.dir / "tokenizer.json");
  EXPECT_EQ(
      t.longest_tokens,
      static_cast<int64_t>(tokenizer->encode(test::read_text(s.dir / "in" / "d.txt")).size()));
  EXPECT_EQ(t.longest_document, "d.txt");
  const Node params = load_json(s.dir / "out" / "train" / "data_params.json");
  EXPECT_EQ(params.find("preparation")->find("tokens")->as_int(), tokens);
  EXPECT_EQ(params.find("preparation")->find("exact_duplicates")->as_int(),
            t.total.exact_duplicates);
}

std::set<std::vector<int32_t>> documents_of(const fs::path& folder) {
  const ShardSet shards(folder);
  std::vector<int64_t> starts = shards.document_starts();
  starts.push_back(shards.total_tokens());
  std::set<std::vector<int32_t>> out;
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    std::vector<int32_t> ids(static_cast<size_t>(starts[d + 1] - starts[d]));
    shards.read(starts[d], ids);
    out.insert(ids);
  }
  return out;
}

TEST(PrepareAtScale, LeavingOutDuplicatesMovesNoDocumentToTheOtherSide) {
  const Place s;
  PrepareOptions all = s.options("all");
  all.duplicates.kind = Duplicates::kKeep;
  prepare(all);
  prepare(s.options("some"));
  for (const char* part : {"train", "validation"}) {
    const auto before = documents_of(s.dir / "all" / part),
               after = documents_of(s.dir / "some" / part);
    EXPECT_GT(after.size(), 20u);
    for (const auto& document : after) EXPECT_TRUE(before.contains(document)) << part;
  }
}

TEST(PrepareAtScale, BrokenUtf8OfATextFileIsKept) {
  const TempDir dir;
  test::write_vocabulary(dir / "tokenizer.json");
  std::string bytes = "fine \xff\xc0\x80 \xed\xa0\x80 \xf5 end\n";
  bytes.push_back('\0');
  test::write_text(dir / "a.txt", bytes);
  PrepareOptions options;
  options.inputs = {dir / "a.txt"};
  options.tokenizer = dir / "tokenizer.json";
  options.output = dir / "out";
  prepare(options);
  const ShardSet shards(options.output);
  std::vector<int32_t> ids(static_cast<size_t>(shards.total_tokens()) - 1);
  shards.read(0, ids);
  EXPECT_EQ(load_tokenizer(options.output)->decode(ids), bytes);
}

// A broken line far behind stops the run; what was done stays and is not done again.
TEST(PrepareAtScale, ContinuesBehindAMendedFile) {
  const Place s;
  prepare(s.options("whole"));
  const std::string good = test::read_text(s.dir / "in" / "sub" / "g.jsonl");
  test::write_text(s.dir / "in" / "sub" / "g.jsonl", "broken\n" + good);
  const PrepareOptions options = s.options("out");
  expect_error(ErrorCode::kData, {"g.jsonl:1"}, [&] { prepare(options); });
  EXPECT_FALSE(fs::exists(options.output));
  EXPECT_TRUE(fs::exists(s.partial("out")));
  test::write_text(s.dir / "in" / "sub" / "g.jsonl", good);
  const PrepareResult result = prepare(options);
  EXPECT_GT(result.continued_from, 100);
  EXPECT_EQ(test::digests(options.output), test::digests(s.dir / "whole"));
  EXPECT_FALSE(fs::exists(s.partial("out")));
}

TEST(PrepareAtScale, AnotherRequestDoesNotContinue) {
  const Place s;
  const std::string good = test::read_text(s.dir / "in" / "sub" / "g.jsonl");
  test::write_text(s.dir / "in" / "sub" / "g.jsonl", "broken\n");
  expect_error(ErrorCode::kData, {"g.jsonl:1"}, [&] { prepare(s.options("out")); });
  test::write_text(s.dir / "in" / "sub" / "g.jsonl", good);
  const auto before = test::digests(s.partial("out"));
  const auto refuse = [&](const std::string& why, auto&& change) {
    PrepareOptions options = s.options("out");
    change(options);
    expect_error(ErrorCode::kRequest, {"out.partial", why, "--restart"}, [&] { prepare(options); });
    EXPECT_EQ(test::digests(s.partial("out")), before);
  };
  refuse("seed was \"3\" and is now \"4\"", [](PrepareOptions& o) { o.seed = 4; });
  refuse("dedup was \"near\" and is now \"none\"",
         [](PrepareOptions& o) { o.duplicates.kind = Duplicates::kKeep; });
  refuse("shard_tokens was 9000", [](PrepareOptions& o) { o.shard_tokens = 10; });
  refuse("text_key", [](PrepareOptions& o) { o.text_key = "body"; });
  refuse("long_documents", [](PrepareOptions& o) { o.skip_long = true; });
  refuse("7 input files and there are now 8",
         [&](PrepareOptions& o) { o.inputs.push_back(s.dir / "in" / "d.txt"); });
  refuse("a.jsonl", [&](PrepareOptions& o) {  // touched
    const fs::path file = s.dir / "in" / "a.jsonl";
    fs::last_write_time(file, fs::last_write_time(file) + std::chrono::seconds(5));
    o.threads = 1;
  });
  PrepareOptions anew = s.options("out");
  anew.restart = true;
  anew.seed = 4;
  EXPECT_EQ(prepare(anew).continued_from, 0);
  prepare([&] {
    PrepareOptions whole = s.options("whole");
    whole.seed = 4;
    return whole;
  }());
  EXPECT_EQ(test::digests(s.dir / "out"), test::digests(s.dir / "whole"));
}

TEST(PrepareAtScale, FoldersInTheWay) {
  const Place s;
  fs::create_directories(s.partial("out"));
  {
    const FolderLock lock(s.partial("out"), "testing");
    expect_error(ErrorCode::kRequest, {"out.partial", "another process is preparing data"},
                 [&] { prepare(s.options("out")); });
  }
  prepare(s.options("out"));  // an empty folder with a lock is a preparation that just began
  expect_error(ErrorCode::kRequest, {"out", "exists already"}, [&] { prepare(s.options("out")); });
  PrepareOptions restart = s.options("out");
  restart.restart = true;
  expect_error(ErrorCode::kRequest, {"out", "exists already"}, [&] { prepare(restart); });
  fs::create_directories(s.partial("other"));
  test::write_text(s.partial("other") / "thesis.tex", "mine");
  expect_error(ErrorCode::kRequest, {"other.partial", "in the way"},
               [&] { prepare(s.options("other")); });
  EXPECT_EQ(test::read_text(s.partial("other") / "thesis.tex"), "mine");
}

TEST(PrepareAtScale, LongDocumentsAreRefusedOrPassedOver) {
  const TempDir dir;
  test::write_vocabulary(dir / "tokenizer.json");
  const std::string fits = test::random_words(1, 1, 100), after = test::random_words(1, 2, 50);
  const std::string line = test::json_line(fits);
  std::string longer = fits;
  longer.insert(0, 1, 'x');  // one byte more
  const auto run = [&](const std::string& name, const std::string& content, bool skip) {
    test::write_text(dir / name, content);
    PrepareOptions options;
    options.inputs = {dir / name};
    options.tokenizer = dir / "tokenizer.json";
    options.output = dir / "out";
    options.max_document = static_cast<int64_t>(line.size()) - 1;  // without the line break
    options.skip_long = skip;
    fs::remove_all(options.output);
    return prepare(options);
  };
  const std::string lines = line + test::json_line(longer) + test::json_line(after);
  for (const bool compressed : {false, true}) {
    const std::string name = compressed ? "a.jsonl.gz" : "a.jsonl";
    const std::string content = compressed ? test::gzip(lines) : lines;
    expect_error(ErrorCode::kData,
                 {name + ":2", "longer than", "--max-document", "--long-documents skip"},
                 [&] { run(name, content, false); });
    const PrepareResult result = run(name, content, true);
    EXPECT_EQ(result.statistics.total.too_long, 1);
    EXPECT_EQ(result.statistics.total.bytes, static_cast<int64_t>(fits.size() + after.size()));
  }
  // The last line, without a line break; and one that is many buffers long.
  const std::string endless(5000000, 'y');
  EXPECT_EQ(run("b.jsonl", line + endless, true).statistics.total.too_long, 1);
  EXPECT_EQ(run("b.jsonl", endless + "\n" + line, true).statistics.total.documents, 1);
  expect_error(ErrorCode::kData, {"c.txt: document is longer"},
               [&] { run("c.txt", endless, false); });
  expect_error(ErrorCode::kRequest, {"the input holds no text"},
               [&] { run("c.txt", endless, true); });
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
}

TEST(PrepareAtScale, WrongRequests) {
  const Place s;
  const auto refuse = [&](const std::vector<std::string>& why, auto&& change) {
    PrepareOptions options = s.options("out");
    change(options);
    expect_error(ErrorCode::kRequest, why, [&] { prepare(options); });
    EXPECT_FALSE(fs::exists(s.partial("out")));
  };
  refuse({"memory of 1000 bytes"}, [](PrepareOptions& o) { o.memory = 1000; });
  refuse({"16 times"}, [](PrepareOptions& o) { o.max_document = o.memory / 8; });
  refuse({"duplicate threshold 1.5"}, [](PrepareOptions& o) { o.duplicates.threshold = 1.5; });
  refuse({"duplicate bands"}, [](PrepareOptions& o) { o.duplicates.bands = 100000; });
  refuse({"n-grams of 0 words"}, [](PrepareOptions& o) { o.duplicates.ngram = 0; });
  refuse({"threads"}, [](PrepareOptions& o) { o.threads = -1; });
  fs::create_directories(s.dir / "nothing");
  refuse({"nothing", "holds no .txt or .jsonl"},
         [&](PrepareOptions& o) { o.inputs = {s.dir / "nothing"}; });
  test::write_text(s.dir / "x.parquet", "PAR1");
  refuse({"x.parquet", "Parquet is not read", "to_json"},
         [&](PrepareOptions& o) { o.inputs = {s.dir / "x.parquet"}; });
}

TEST(PrepareAtScale, TextKeyNamesTheText) {
  const TempDir dir;
  test::write_vocabulary(dir / "tokenizer.json");
  test::write_text(dir / "a.jsonl", test::json_line("some body", "body"));
  PrepareOptions options;
  options.inputs = {dir / "a.jsonl"};
  options.tokenizer = dir / "tokenizer.json";
  options.output = dir / "out";
  expect_error(ErrorCode::kData, {"a.jsonl:1: text:"}, [&] { prepare(options); });
  options.text_key = "body";
  EXPECT_EQ(prepare(options).statistics.total.bytes, 9);
}

}  // namespace
}  // namespace ashlar
