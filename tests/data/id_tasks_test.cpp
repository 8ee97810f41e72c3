#include "data/tasks/id_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;

Node options(std::initializer_list<std::pair<const char*, Node>> entries) {
  Node node = Node::map();
  for (const auto& [key, value] : entries) node.set(key, value);
  return node;
}

struct Parts {
  std::vector<int32_t> context, question, answer;
};

// Takes an example apart by its flags; the question begins with its sign, the answer ends the text.
Parts take_apart(const TaskExample& e, int64_t vocab) {
  Parts out;
  EXPECT_EQ(e.tokens.size(), e.answer.size());
  for (size_t i = 0; i < e.tokens.size(); ++i) {
    EXPECT_GE(e.tokens[i], 0);
    EXPECT_LT(e.tokens[i], vocab);
    if (static_cast<int64_t>(i) < e.context) {
      EXPECT_EQ(e.answer[i], 0);
      out.context.push_back(e.tokens[i]);
    } else {
      EXPECT_TRUE(e.answer[i] || out.answer.empty());
      (e.answer[i] ? out.answer : out.question).push_back(e.tokens[i]);
    }
  }
  EXPECT_EQ(out.question.at(0), kQueryId);
  EXPECT_FALSE(out.answer.empty());
  return out;
}

// Determinism, length and the purity of example() hold for every generator alike.
void expect_pure(const std::string& name) {
  const auto task = make_generator(name, options({{"seed", 3}}), nullptr);
  const auto other = make_generator(name, options({{"seed", 4}}), nullptr);
  const TaskExample e = task->example(5);
  task->example(6);
  EXPECT_EQ(task->example(5).tokens, e.tokens) << name;
  EXPECT_NE(task->example(6).tokens, e.tokens) << name;
  EXPECT_NE(other->example(5).tokens, e.tokens) << name;
  EXPECT_LE(std::ssize(e.tokens), task->max_tokens()) << name;
  EXPECT_EQ(task->settings().find("task")->as_string(), name);
  EXPECT_EQ(task->settings().find("seed")->as_int(), 3);
}

TEST(IdTasks, AreFunctionsOfSeedAndIndex) {
  int64_t on_ids = 0;
  for (const GeneratorInfo& info : generators()) {
    EXPECT_FALSE(info.help.empty());
    if (info.text) {
      expect_error(ErrorCode::kRequest, {info.name, "tokenizer"},
                   [&] { make_generator(info.name, Node(), nullptr); });
      continue;
    }
    expect_pure(info.name);
    ++on_ids;
  }
  EXPECT_EQ(on_ids, 5);
}

TEST(IdTasks, CopyRepeatsItsContext) {
  const auto task = make_copy(options({{"length", 17}, {"vocab", 50}}));
  EXPECT_EQ(task->max_tokens(), 35);
  for (uint64_t i = 0; i < 20; ++i) {
    const Parts p = take_apart(task->example(i), 50);
    EXPECT_EQ(p.context.size(), 17u);
    EXPECT_EQ(p.question.size(), 1u);
    EXPECT_EQ(p.answer, p.context);
    EXPECT_GE(*std::min_element(p.context.begin(), p.context.end()), kFirstContent);
  }
}

TEST(IdTasks, NeedlesAreFoundByTheirKey) {
  const auto task = make_needles_ids(
      options({{"length", 100}, {"keys", 6}, {"key_length", 3}, {"value_length", 4}}));
  std::set<size_t> places;
  for (uint64_t i = 0; i < 200; ++i) {
    const TaskExample e = task->example(i);
    EXPECT_EQ(std::ssize(e.tokens), 100);
    const Parts p = take_apart(e, 256);
    std::map<std::vector<int32_t>, std::vector<int32_t>> needles;
    for (size_t t = 0; t < p.context.size(); ++t) {
      if (p.context[t] != kNeedleId) continue;
      ASSERT_LT(t + 7, p.context.size());
      const auto at = p.context.begin() + static_cast<int64_t>(t);
      needles[{at + 1, at + 4}] = {at + 4, at + 8};
    }
    ASSERT_EQ(needles.size(), 6u) << "keys differ";
    const std::vector<int32_t> key(p.question.begin() + 1, p.question.end());
    ASSERT_TRUE(needles.contains(key));
    EXPECT_EQ(needles[key], p.answer);
    places.insert(static_cast<size_t>(std::find(p.context.begin(), p.context.end(), kNeedleId) -
                                      p.context.begin()));
  }
  EXPECT_GT(places.size(), 10u) << "needles lie anywhere";
  // Thirteen keys of one id: six of them are often drawn twice.
  const auto crowded = make_needles_ids(options({{"keys", 6}, {"key_length", 1}, {"vocab", 16}}));
  for (uint64_t i = 0; i < 50; ++i) {
    const Parts p = take_apart(crowded->example(i), 16);
    std::set<int32_t> keys;
    for (size_t t = 0; t < p.context.size(); ++t) {
      if (p.context[t] == kNeedleId) keys.insert(p.context[t + 1]);
    }
    EXPECT_EQ(keys.size(), 6u);
  }
}

TEST(IdTasks, SeveralNeedlesAreAskedOnceEach) {
  const auto task = make_needles_ids(options(
      {{"length", 100}, {"keys", 6}, {"queries", 4}, {"key_length", 2}, {"value_length", 3}}));
  const auto one = make_needles_ids(
      options({{"length", 82}, {"keys", 6}, {"key_length", 2}, {"value_length", 3}}));
  for (uint64_t i = 0; i < 50; ++i) {
    const TaskExample e = task->example(i);
    EXPECT_EQ(std::ssize(e.tokens), 100);
    EXPECT_EQ(e.context, 100 - 4 * 6);
    std::set<std::vector<int32_t>> asked;
    for (auto t = static_cast<size_t>(e.context); t < e.tokens.size(); t += 6) {
      EXPECT_EQ(e.tokens[t], kQueryId);
      EXPECT_EQ(std::vector<uint8_t>(&e.answer[t], &e.answer[t] + 6),
                (std::vector<uint8_t>{0, 0, 0, 1, 1, 1}));
      const std::vector<int32_t> wanted(&e.tokens[t] + 1, &e.tokens[t] + 6);
      asked.insert({wanted.begin(), wanted.begin() + 2});
      std::vector<int32_t> needle = {kNeedleId};
      needle.insert(needle.end(), wanted.begin(), wanted.end());
      const auto end = e.tokens.begin() + e.context;
      EXPECT_NE(std::search(e.tokens.begin(), end, needle.begin(), needle.end()), end);
    }
    EXPECT_EQ(asked.size(), 4u) << "each key once";
    EXPECT_EQ(one->example(i).context, e.context);
  }
  expect_error(ErrorCode::kRequest, {"queries", "7 of 6"}, [&] {
    make_needles_ids(options({{"keys", 6}, {"queries", 7}}));
  });
}

TEST(IdTasks, VariablesFollowTheirChain) {
  const auto task =
      make_variables_ids(options({{"length", 128}, {"chains", 3}, {"hops", 5}, {"vocab", 80}}));
  for (uint64_t i = 0; i < 100; ++i) {
    const Parts p = take_apart(task->example(i), 80);
    ASSERT_EQ(p.question.size(), 2u);
    std::map<int32_t, int32_t> value;  // of a name, through its chain
    std::vector<int32_t> expected;
    for (size_t t = 0; t + 2 < p.context.size(); ++t) {
      if (p.context[t] != kNeedleId) continue;
      const int32_t name = p.context[t + 1], from = p.context[t + 2];
      EXPECT_FALSE(value.contains(name)) << "names are assigned once";
      value[name] = value.contains(from) ? value[from] : from;
      if (value[name] == p.question[1]) expected.push_back(name);
    }
    EXPECT_EQ(value.size(), 18u);
    EXPECT_EQ(expected.size(), 6u);
    EXPECT_EQ(p.answer, expected);
  }
}

TEST(IdTasks, FrequentIdsAreTheMostFrequent) {
  for (const double alpha : {1.5, 2.0, 3.0}) {
    const auto task = make_frequent_ids(options({{"length", 300}, {"alpha", alpha}}));
    for (uint64_t i = 0; i < 30; ++i) {
      const TaskExample e = task->example(i);
      EXPECT_GT(e.tokens.size(), 290u);
      const Parts p = take_apart(e, 256);
      std::map<int32_t, int64_t> count;
      for (int32_t id : p.context) ++count[id];
      EXPECT_GT(count[kFillerId], count[p.answer[0]]);
      count.erase(kFillerId);
      for (int32_t expected : p.answer) {
        const auto most = std::max_element(count.begin(), count.end(),
                                           [](auto& a, auto& b) { return a.second < b.second; });
        EXPECT_EQ(most->first, expected);
        const int64_t n = most->second;
        count.erase(most);
        for (const auto& [id, other] : count) EXPECT_LT(other, n) << "one right answer";
      }
      EXPECT_EQ(p.answer.size(), 3u);
    }
  }
}

TEST(IdTasks, WrongOptions) {
  const auto refuse = [](const char* name, const std::vector<std::string>& why, const Node& node) {
    expect_error(ErrorCode::kRequest, why, [&] { make_generator(name, node, nullptr); });
  };
  refuse("copy", {"vocab", "between 5"}, options({{"vocab", 4}}));
  refuse("copy", {"keys", "unknown key"}, options({{"keys", 4}}));
  refuse("needles_ids", {"length", "20 tokens", "25"}, options({{"length", 20}}));
  refuse("needles_ids", {"keys", "different keys"},
         options({{"key_length", 1}, {"vocab", 10}, {"keys", 4}}));
  refuse("variables_ids", {"vocab", "10 is too small", "10 names"},
         options({{"vocab", 10}, {"chains", 2}}));
  refuse("frequent_ids", {"words", "vocabulary of 10"}, options({{"vocab", 10}}));
  refuse("frequent_ids", {"length", "too few"}, options({{"length", 12}}));
}

}  // namespace
}  // namespace ashlar
