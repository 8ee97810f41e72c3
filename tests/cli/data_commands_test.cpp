#include <gtest/gtest.h>

#include "cli/app.h"
#include "cli/commands.h"
#include "core/io/json.h"
#include "tests/cli/run_command.h"
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
