#include <gtest/gtest.h>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/io/json.h"
#include "tests/cli/run_command.h"
#include "tests/data/prepare_support.h"
#include "tests/support/files.h"

namespace ashlar::cli {
namespace {

using test::TempDir;

using test_commands::json_of;
using test_commands::Outcome;

Outcome ashlar(std::vector<std::string> arguments) {
  constexpr AddCommand kCommands[] = {add_data_command, add_tokenizer_command};
  return test_commands::run_command(kCommands, std::move(arguments));
}

/// One document per paragraph of the licence.
void write_corpus(const std::filesystem::path& path) {
  const std::string text = test::read_text("LICENSE");
  std::string lines;
  for (size_t at = 0; at < text.size(); at += 400) {
    lines += write_json(Node::Map{{"text", text.substr(at, 400)}}) + "\n";
  }
  test::write_text(path, lines);
}

TEST(DataCommands, FromTextToShardsAndBack) {
  const TempDir dir;
  const std::string corpus = dir / "corpus.jsonl", vocabulary = dir / "tokenizer.json",
                    shards = dir / "shards";
  write_corpus(corpus);
  const Node trained = json_of(ashlar({"tokenizer", "train", "--input", corpus, "--vocab-size",
                                       "500", "--output", vocabulary, "--json"}));
  EXPECT_EQ(trained.find("vocab_size")->as_int(), 500);

  const Node prepared =
      json_of(ashlar({"data", "prepare", "--input", corpus, "--tokenizer", vocabulary,
                      "--validation-share", "0.3", "--seed", "1", "--output", shards, "--json"}));
  EXPECT_EQ(prepared.find("dtype")->as_string(), "uint16");
  EXPECT_EQ(prepared.find("parts")->as_list().size(), 2u);
  EXPECT_EQ(prepared.find("vocabulary_sha256")->as_string(),
            trained.find("vocabulary_sha256")->as_string());

  const Node bigram = json_of(ashlar({"data", "bigram", "--train", shards + "/train",
                                      "--validation", shards + "/validation", "--json"}));
  const Node& row = bigram.as_list().at(0);
  EXPECT_EQ(row.find("metric")->as_string(), "bits_per_byte");
  EXPECT_GT(row.find("value")->as_double(), 1);
  EXPECT_LT(row.find("value")->as_double(), 5);

  const std::string text = "Licensed under the <|endoftext|> Apache – License\n";
  test::write_text(dir / "text.txt", text);
  const Node encoded = json_of(ashlar({"tokenizer", "encode", "--tokenizer", vocabulary, "--input",
                                       dir / "text.txt", "--json", "--plain"}));
  test::write_text(dir / "ids.json", write_json(encoded));
  const Outcome decoded = ashlar(
      {"tokenizer", "decode", "--tokenizer", shards + "/train", "--input", dir / "ids.json"});
  EXPECT_EQ(decoded.status, 0);
  EXPECT_EQ(decoded.out, text);
  const Outcome parsed =
      ashlar({"tokenizer", "encode", "--tokenizer", vocabulary, "--input", dir / "text.txt"});
  EXPECT_NE((" " + parsed.out).find(" 0 "), std::string::npos)
      << "no <|endoftext|> in: " << parsed.out;

  std::string longer;
  while (longer.size() < (1 << 20)) longer += text + "ends here, ";  // several parts
  test::write_text(dir / "long.txt", longer);
  const auto ids = [&](const char* threads) {
    return ashlar({"tokenizer", "encode", "--tokenizer", vocabulary, "--input", dir / "long.txt",
                   "--json", "--lossy", "--threads", threads})
        .out;
  };
  EXPECT_EQ(ids("1"), ids("3"));
  EXPECT_GT(parse_json(ids("3"), "ids").find("ids")->as_list().size(), longer.size() / 8);
}

TEST(DataCommands, WrongRequestsExitTwoWithOneLine) {
  const TempDir dir;
  const auto refuse = [&](int status, const std::string& why, std::vector<std::string> arguments) {
    const Outcome outcome = ashlar(std::move(arguments));
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
  };
  refuse(2, "no such file",
         {"tokenizer", "train", "--input", dir / "gone.txt", "--vocab-size", "300", "--output",
          dir / "t.json"});
  refuse(2, "--vocab-size", {"tokenizer", "train", "--input", "x.txt", "--output", "y"});
  test::write_text(dir / "short.txt", "short");
  refuse(2, "5000 were asked for",
         {"tokenizer", "train", "--input", dir / "short.txt", "--vocab-size", "5000", "--output",
          dir / "t.json"});
  EXPECT_FALSE(std::filesystem::exists(dir / "t.json"));
  test::write_text(dir / "bad.json", "{\"version\": \"1.0\"");
  refuse(1, "bad.json",
         {"tokenizer", "encode", "--tokenizer", dir / "bad.json", "--input", dir / "short.txt"});
  refuse(2, "no such folder",
         {"data", "bigram", "--train", dir / "gone", "--validation", dir / "gone"});
}

/// A corpus, its vocabulary, and the words of a request that prepares it.
struct Prepared {
  TempDir dir;
  std::string vocabulary = dir / "tokenizer.json";

  Prepared() {
    write_corpus(dir / "corpus.jsonl");
    EXPECT_EQ(ashlar({"tokenizer", "train", "--input", dir / "corpus.jsonl", "--vocab-size", "300",
                      "--output", vocabulary})
                  .status,
              0);
  }
  std::vector<std::string> request(const std::string& input) const {
    return {"data",        "prepare",  "--input",  dir / input,
            "--tokenizer", vocabulary, "--output", dir / "out"};
  }
};

TEST(DataCommands, PrepareRefusesBadInputWithOneLine) {
  const Prepared p;
  const auto refuse = [&](int status, const std::string& why, const std::string& input,
                          const std::vector<std::string>& more = {}) {
    std::vector<std::string> request = p.request(input);
    request.insert(request.end(), more.begin(), more.end());
    const Outcome outcome = ashlar(request);
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(why), std::string::npos) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(p.dir / "out"));
    EXPECT_FALSE(std::filesystem::exists(p.dir / "out.partial"));
  };
  const auto write = [&](const std::string& name, const std::string& content) {
    test::write_text(p.dir / name, content);
    return name;
  };
  refuse(2, "no such file", "gone.jsonl");
  refuse(2, ".txt or .jsonl", write("a.csv", "x"));
  refuse(2, "Parquet is not read", write("a.parquet", "PAR1"));
  refuse(1, "b.jsonl:3", write("b.jsonl", "{\"text\": \"x\"}\n\n{\"text\": \n"));
  refuse(1, "b.jsonl:1: body:", write("b.jsonl", "{\"text\": \"x\"}\n"), {"--text-key", "body"});
  refuse(1, "b.jsonl:2", write("b.jsonl", "{\"text\": \"x\"}\n{\"text\": \"\xff\"}\n"));
  const std::string corpus = test::read_text(p.dir / "corpus.jsonl");
  refuse(1, "gzip data is truncated",
         write("c.jsonl.gz", test::gzip(corpus).substr(0, corpus.size() / 8)));
  refuse(1, "zstd data is truncated",
         write("c.jsonl.zst", test::zstd(corpus).substr(0, corpus.size() / 8)));
  refuse(1, "gzip data is damaged", write("d.txt.gz", "not gzip"));
  refuse(2, "the input holds no text", write("e.jsonl", "{\"text\": \"\"}\n\n"));
  refuse(1, "--long-documents skip", "corpus.jsonl", {"--max-document", "200"});
  refuse(2, "--max-document", "corpus.jsonl", {"--max-document", "much"});
  refuse(2, "32 times", "corpus.jsonl", {"--memory", "64MiB", "--max-document", "3MiB"});
  refuse(2, "--dedup", "corpus.jsonl", {"--dedup", "fuzzy"});
  refuse(2, "--long-documents", "corpus.jsonl", {"--long-documents", "cut"});
  refuse(2, "--inptu", "corpus.jsonl", {"--inptu", "x"});
}

TEST(DataCommands, PrepareCountsWhatItLeavesOut) {
  const Prepared p;
  const std::string corpus = test::read_text(p.dir / "corpus.jsonl");
  std::filesystem::create_directories(p.dir / "in");
  test::write_text(p.dir / "in" / "a.jsonl", corpus + "{\"text\": \"\"}\n");
  test::write_text(p.dir / "in" / "b.jsonl.gz", test::gzip(corpus));
  std::vector<std::string> request = p.request("in");
  request.insert(request.end(), {"--dedup", "exact", "--memory", "512MiB", "--json"});
  const Node node = json_of(ashlar(request));
  const auto lines = static_cast<int64_t>(std::count(corpus.begin(), corpus.end(), '\n'));
  const Node& s = *node.find("statistics");
  EXPECT_EQ(s.find("documents")->as_int(), lines);
  EXPECT_EQ(s.find("exact_duplicates")->as_int(), lines);
  EXPECT_EQ(s.find("empty")->as_int(), 1);
  EXPECT_EQ(s.find("files")->as_list().size(), 2u);
  EXPECT_EQ(s.find("files")->as_list()[1].find("documents")->as_int(), 0);
  EXPECT_EQ(node.find("empty_documents")->as_int(), 1);
  EXPECT_GT(s.find("bytes_per_token")->as_double(), 1);
  const Outcome table = ashlar([&] {
    std::vector<std::string> words = p.request("in");
    words.back() = p.dir / "out2";
    return words;
  }());
  EXPECT_EQ(table.status, 0) << table.err;
  for (const char* part :
       {"documents", "B/tok", "a.jsonl", "b.jsonl.gz", "all", "longest document"})
    EXPECT_NE(table.out.find(part), std::string::npos) << table.out;
}

TEST(DataCommands, HelpShowsAnExample) {
  for (std::vector<std::string> words : {std::vector<std::string>{"data", "prepare"},
                                         {"data", "bigram"},
                                         {"tokenizer", "train"},
                                         {"tokenizer", "encode"},
                                         {"tokenizer", "decode"}}) {
    words.push_back("--help");
    const Outcome outcome = ashlar(words);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.out.find("Example:\n"), std::string::npos) << outcome.out;
  }
}

}  // namespace
}  // namespace ashlar::cli
