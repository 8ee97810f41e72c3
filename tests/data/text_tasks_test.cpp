#include "data/tasks/text_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "data/tasks/words.h"
#include "data/tokenizer/train_bpe.h"
#include "tests/data/byte_tokenizer.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::ByteTokenizer;
using test::expect_error;
using test::shared_data;

const ByteTokenizer& bytes() {
  static const ByteTokenizer tokenizer;
  return tokenizer;
}

// An example of bytes as texts; answers are the flagged runs without their space.
struct Texts {
  std::string context, question;
  std::vector<std::string> answers;
};

Texts read(const TaskExample& e) {
  Texts out;
  EXPECT_EQ(e.tokens.size(), e.answer.size());
  for (size_t i = 0; i < e.tokens.size(); ++i) {
    const char c = static_cast<char>(e.tokens[i]);
    if (static_cast<int64_t>(i) < e.context) {
      out.context += c;
      EXPECT_FALSE(e.answer[i]);
    } else if (e.answer[i]) {
      if (!e.answer[i - 1] || c == ' ') {
        EXPECT_EQ(c, ' ');
        out.answers.emplace_back();
      } else {
        out.answers.back() += c;
      }
    } else if (out.answers.empty()) {
      out.question += c;
    }
  }
  return out;
}

std::vector<std::string> matches(const std::string& text, const char* pattern, size_t group = 1) {
  std::vector<std::string> out;
  const std::regex regex(pattern);
  for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i) {
    out.push_back((*i)[group]);
  }
  return out;
}

constexpr const char* kTextTasks[] = {"passkey", "needles", "variables", "common_words",
                                      "frequent_words"};

TEST(TextTasks, FillTheirLengthAndNoMore) {
  // The haystack's unit bounds what is left over.
  const std::map<std::string, int64_t> unit = {{"passkey", 88},
                                               {"needles", 64},
                                               {"variables", 88},
                                               {"common_words", 84},
                                               {"frequent_words", 40}};
  for (const char* name : kTextTasks) {
    for (const int64_t length : {2500, 7001, 12001}) {
      const auto task = make_generator(name, Node::Map{{"length", length}}, &bytes());
      EXPECT_EQ(task->max_tokens(), length);
      for (uint64_t i = 0; i < 5; ++i) {
        const TaskExample e = task->example(i);
        EXPECT_LE(std::ssize(e.tokens), length) << name;
        EXPECT_GT(std::ssize(e.tokens), length - unit.at(name)) << name << " of " << length;
        EXPECT_EQ(e.tokens, task->example(i).tokens) << name;
      }
      EXPECT_NE(task->example(0).tokens, task->example(1).tokens) << name;
    }
    expect_error(ErrorCode::kRequest, {"length", "50 tokens"}, [&] {
      make_generator(name, Node::Map{{"length", 50}}, &bytes());
    });
  }
}

TEST(TextTasks, WorkWithSubwordTokens) {
  BpeTrainOptions train;
  train.vocab_size = 400;
  BpeTrainer trainer(train);
  const TaskExample sample =
      make_generator("needles", Node::Map{{"length", 9000}}, &bytes())->example(0);
  trainer.add(std::vector<std::string>{read(sample).context});
  const test::TempDir folder;
  test::write_text(folder / "tokenizer.json", trainer.train());
  const auto tokenizer = load_tokenizer(folder / "tokenizer.json");
  for (const char* name : kTextTasks) {
    const auto task = make_generator(name, Node::Map{{"length", 2000}}, tokenizer.get());
    EXPECT_EQ(task->vocab_size(), 400);
    const TaskExample e = task->example(1);
    EXPECT_LE(e.tokens.size(), 2000u);
    EXPECT_GT(e.tokens.size(), 1900u);
    const std::span<const int32_t> ids = e.tokens;
    const auto context = static_cast<size_t>(e.context);
    EXPECT_EQ(tokenizer->encode(tokenizer->decode(ids.first(context))),
              std::vector<int32_t>(ids.begin(), ids.begin() + e.context))
        << "the context's tokens do not depend on the question";
    EXPECT_EQ(task->settings().find("tokenizer_sha256")->as_string(), tokenizer->hash());
  }
}

// The passkey's answer, read back through each vocabulary: parts join without a space too many.
TEST(TextTasks, WorkWithRealVocabularies) {
  const auto folder = shared_data("tokenizers");
  if (folder.empty()) GTEST_SKIP() << "no tokenizers";
  int64_t found = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(file.path().string());
    const auto tokenizer = load_tokenizer(file.path());
    const TaskExample e = make_passkey(Node::Map{{"length", 600}}, tokenizer.get())->example(7);
    EXPECT_LE(e.tokens.size(), 600u);
    EXPECT_GT(e.tokens.size(), 560u);
    const std::string text = tokenizer->decode(e.tokens);
    const auto keys = matches(text, "The pass key is ([0-9]{5})\\.");
    ASSERT_EQ(keys.size(), 1u);
    EXPECT_TRUE(text.ends_with("\nWhat is the pass key? The pass key is " + keys[0])) << text;
    const auto answers = static_cast<size_t>(std::count(e.answer.begin(), e.answer.end(), 1));
    std::string answer;
    for (int32_t id : std::span<const int32_t>(e.tokens).last(answers)) {
      answer += tokenizer->token_bytes(id);
    }
    EXPECT_EQ(answer, " " + keys[0]);
    ++found;
  }
  EXPECT_GE(found, 5);
}

TEST(TextTasks, PasskeyIsInTheText) {
  for (const double depth : {-1.0, 0.0, 50.0, 100.0}) {
    const auto task = make_passkey(Node::Map{{"length", 2048}, {"depth", depth}}, &bytes());
    std::set<size_t> places;
    for (uint64_t i = 0; i < 10; ++i) {
      const Texts t = read(task->example(i));
      const auto found = matches(t.context, "The pass key is ([0-9]{5})\\.");
      ASSERT_EQ(found.size(), 1u);
      EXPECT_EQ(t.answers, found);
      const size_t place = t.context.find("The pass key is");
      places.insert(place);
      const size_t lines = static_cast<size_t>(
          std::count(t.context.begin(), t.context.begin() + static_cast<int64_t>(place), '\n'));
      if (depth == 0) {
        EXPECT_EQ(lines, 1u);
      } else if (depth == 100) {
        EXPECT_LT(t.context.size() - place, 80u) << "nothing behind it";
      }
    }
    EXPECT_EQ(places.size() > 1, depth < 0);
  }
}

TEST(TextTasks, NeedlesOfEveryConfiguration) {
  const std::map<std::string, size_t> answers = {
      {"single_1", 1},   {"single_2", 1},   {"single_3", 1},   {"multikey_1", 1},
      {"multikey_2", 1}, {"multikey_3", 1}, {"multivalue", 4}, {"multiquery", 4}};
  for (const auto& [config, count] : answers) {
    const auto task = make_needles(Node::Map{{"length", 4096}, {"config", config}}, &bytes());
    for (uint64_t i = 0; i < 10; ++i) {
      const Texts t = read(task->example(i));
      std::multimap<std::string, std::string> needles;
      std::set<std::string> keys;
      const char* pattern = "A secret [a-z]+ of ([^ ]+) is ([^ ]+)\\.";
      const auto names = matches(t.context, pattern), values = matches(t.context, pattern, 2);
      for (size_t n = 0; n < names.size(); ++n) needles.emplace(names[n], values[n]);
      // The keys that are asked for, in the question's order, each with its values in the text's.
      const auto asked =
          matches(t.question.substr(0, t.question.find('?')), "(?: of|,| and) ([^ ,]*-[^ ,]*)");
      std::vector<std::string> expected;
      for (const std::string& key : asked) {
        const auto [first, last] = needles.equal_range(key);
        for (auto n = first; n != last; ++n) expected.push_back(n->second);
      }
      EXPECT_EQ(t.answers, expected) << config << ": " << t.question;
      EXPECT_EQ(t.answers.size(), count) << config;
      if (config.starts_with("multikey_") && config != "multikey_1") {
        EXPECT_GT(names.size(), 20u) << "the haystack is needles";
        EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
      }
    }
  }
}

// A thousand of 37,888 pairs of words: without care about eleven would come twice.
TEST(TextTasks, KeysOfNeedlesDiffer) {
  const auto task = make_needles(Node::Map{{"length", 50000}, {"config", "multikey_2"}}, &bytes());
  const auto names = matches(read(task->example(0)).context, "A secret number of ([^ ]+) is");
  EXPECT_GT(names.size(), 1000u);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
}

TEST(TextTasks, VariablesFollowTheirChain) {
  const auto task =
      make_variables(Node::Map{{"length", 5000}, {"chains", 2}, {"hops", 3}}, &bytes());
  for (uint64_t i = 0; i < 20; ++i) {
    const Texts t = read(task->example(i));
    const auto asked = matches(t.question, "have the value ([0-9]+)\\?");
    ASSERT_EQ(asked.size(), 1u);
    std::map<std::string, std::string> value;
    std::vector<std::string> expected;
    // The example with its answer comes first and has names of three letters.
    EXPECT_NE(t.context.find("Answer: "), std::string::npos);
    std::istringstream lines(t.context.substr(t.context.rfind("Variables are assigned")));
    std::smatch m;
    for (std::string line; std::getline(lines, line);) {
      if (std::regex_match(line, m, std::regex("VAR ([A-Z]{5}) = (?:VAR )?([A-Z0-9]+)"))) {
        const std::string from = m[2];
        value[m[1]] = value.contains(from) ? value[from] : from;
        if (value[m[1]] == asked[0]) expected.push_back(m[1]);
      }
    }
    EXPECT_EQ(value.size(), 8u);
    EXPECT_EQ(expected.size(), 4u);
    EXPECT_EQ(t.answers, expected);
  }
}

// The words that stand most often, in order of their first places.
TEST(TextTasks, CommonWordsAreTheMostCommon) {
  for (const int64_t length : {3000, 8000}) {
    const auto task = make_common_words(Node::Map{{"length", length}}, &bytes());
    EXPECT_EQ(task->settings().find("common_count")->as_int(), length < 4096 ? 6 : 30);
    for (uint64_t i = 0; i < 5; ++i) {
      const Texts t = read(task->example(i));
      const std::string list = t.context.substr(t.context.rfind("Below is"));
      const auto words = matches(list, "[0-9]+\\. ([a-z-]+)");
      std::map<std::string, int64_t> count;
      for (const std::string& word : words) ++count[word];
      std::vector<std::string> expected;
      for (const std::string& word : words) {
        if (count[word] == (length < 4096 ? 6 : 30) &&
            std::find(expected.begin(), expected.end(), word) == expected.end()) {
          expected.push_back(word);
        }
      }
      EXPECT_EQ(expected.size(), 10u);
      EXPECT_EQ(t.answers, expected);
      for (const auto& [word, n] : count) EXPECT_TRUE(n == (length < 4096 ? 1 : 3) || n >= 6);
    }
  }
}

TEST(TextTasks, FrequentWordsAreTheMostFrequent) {
  const auto task = make_frequent_words(Node::Map{{"length", 4000}}, &bytes());
  EXPECT_EQ(task->settings().find("words")->as_int(), 80);
  for (uint64_t i = 0; i < 10; ++i) {
    const Texts t = read(task->example(i));
    std::map<std::string, int64_t> count;
    std::istringstream words(t.context.substr(t.context.find('\n')));
    for (std::string word; words >> word;) ++count[word];
    EXPECT_GT(count["..."], count[t.answers.at(0)]);
    count.erase("...");
    ASSERT_EQ(t.answers.size(), 3u);
    for (const std::string& answer : t.answers) {
      const int64_t n = count[answer];
      count.erase(answer);
      for (const auto& [word, other] : count) EXPECT_LT(other, n);
    }
  }
}

TEST(TextTasks, WordsDiffer) {
  std::set<std::string> words;
  for (int64_t i = 0; i < word_count(); ++i) words.insert(word(i));
  EXPECT_EQ(std::ssize(words), word_count());
}

TEST(TextTasks, WrongOptions) {
  const auto refuse = [](const char* name, const std::vector<std::string>& why, const Node& node) {
    expect_error(ErrorCode::kRequest, why, [&] { make_generator(name, node, &bytes()); });
  };
  refuse("passkey", {"depth", "percent"}, Node::Map{{"depth", -0.5}});
  refuse("needles", {"config", "niah", "single_1"}, Node::Map{{"config", "niah"}});
  refuse("needles", {"queries", "4 keys"}, Node::Map{{"queries", 5}});
  refuse("needles", {"haystack", "essay", "noise"}, Node::Map{{"haystack", "essay"}});
  refuse("variables", {"chain", "chains"}, Node::Map{{"chain", 2}});
  refuse("common_words", {"other_count", "6"}, Node::Map{{"length", 3000}, {"other_count", 6}});
  refuse("frequent_words", {"letters", "too few"},
         Node::Map{{"length", 9000}, {"letters", 2}, {"words", 600}});
  refuse("frequent_words", {"alpha", "between"}, Node::Map{{"alpha", 1}});
}

}  // namespace
}  // namespace ashlar
