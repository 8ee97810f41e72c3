#include "eval/tasks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "data/tasks/generator.h"
#include "eval/evaluate.h"
#include "tests/data/byte_tokenizer.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

using test::ByteTokenizer;
using test::expect_error;
using test::reordered;
using test::TempDir;
using test::within;
using test::write_text;

// log p falls with the byte and the place; the most likely token is the right one unless the byte
// is 'z'.
double log_p(int32_t token, size_t place) {
  return -0.001 * token - 1.0 / static_cast<double>(place + 2);
}

class FakeScorer : public Scorer {
 public:
  int64_t vocab_size() const override { return 256; }
  int64_t context_length() const override { return 4096; }
  Node settings() const override { return Node::map(); }
  std::vector<TextScore> score(std::span<const ScoreText> given) override {
    std::vector<TextScore> out;
    for (const ScoreText& text : given) {
      TextScore score;
      for (size_t i = static_cast<size_t>(text.scored); i < text.tokens.size(); ++i) {
        const int32_t token = text.tokens[i];
        score.tokens.push_back({log_p(token, i), token == 'z' ? 'a' : token});
      }
      out.push_back(std::move(score));
      texts.push_back(text);
    }
    return out;
  }
  std::vector<float> logits(std::span<const int32_t>) override { return {}; }
  std::vector<ScoreText> texts;
};

double sum_of(const std::string& context, const std::string& continuation) {
  double sum = 0;
  for (size_t i = 0; i < continuation.size(); ++i) {
    sum += log_p(static_cast<unsigned char>(continuation[i]), context.size() + i);
  }
  return sum;
}

TaskModel model(bool evicts = false, int64_t context = 4096) {
  static const ByteTokenizer tokenizer;
  return {256, context, evicts, []() -> const Tokenizer& { return tokenizer; }};
}

std::map<std::string, EvalRow> rows_of(const EvalTask& task, FakeScorer& scorer) {
  EvaluateOptions options;
  options.batch = 3;
  std::map<std::string, EvalRow> out;
  for (EvalRow& row : evaluate(scorer, task, options)) {
    const std::string key = row.task.substr(task.name().size()) + " " + row.metric;
    out[key] = std::move(row);
  }
  return out;
}

void expect_near(double actual, double expected) {
  EXPECT_TRUE(within(std::span<const double>(&actual, 1), std::span<const double>(&expected, 1),
                     reordered<double>(64, std::abs(expected))));
}

std::string text_of(const ScoreText& text) { return {text.tokens.begin(), text.tokens.end()}; }

TEST(EvalTasks, LambadaByHand) {
  const TempDir folder;
  const std::string file = (folder / "set.jsonl").string();
  write_text(file,
             "{\"context\": \"one two\", \"continuation\": \"three\"}\n\n"
             "{\"context\": \"a \", \"continuation\": \"fez\"}\n"
             "{\"context\": \"x\", \"continuation\": \"yes\", \"more\": [1]}\n");
  FakeScorer scorer;
  const auto task = make_eval_task("lambada:" + file, 0, model());
  EXPECT_EQ(task->size(), 3);
  const auto rows = rows_of(*task, scorer);
  EXPECT_EQ(text_of(scorer.texts[0]), "one two three");
  EXPECT_EQ(scorer.texts[0].scored, 7);
  EXPECT_EQ(scorer.texts[0].prompt, -1);
  EXPECT_TRUE(scorer.texts[0].marker);
  EXPECT_EQ(text_of(scorer.texts[1]), "a fez");
  EXPECT_EQ(scorer.texts[1].scored, 1) << "the context's white space belongs to the continuation";
  expect_near(rows.at(" accuracy").value, 2.0 / 3);
  const double nll = -(sum_of("one two", " three") + sum_of("a", " fez") + sum_of("x", " yes"));
  expect_near(std::log(rows.at(" perplexity").value), nll / 3);
  expect_near(std::log(rows.at(" token_perplexity").value), nll / (6 + 4 + 4));
  EXPECT_EQ(rows.at(" token_perplexity").n, 14);
  EXPECT_EQ(make_eval_task("lambada:" + file, 2, model())->size(), 2);
  const auto streamed = make_eval_task("lambada:" + file, 0, model(true));
  EXPECT_EQ(streamed->texts(0)[0].prompt, 7) << "a policy acts when the context is in";
  EXPECT_EQ(task->settings().find("file_sha256")->as_string().size(), 64u);
}

TEST(EvalTasks, LongTextsAreRefusedOrCut) {
  const TempDir folder;
  const std::string file = (folder / "set.jsonl").string();
  write_text(file,
             "{\"context\": \"abc\", \"continuation\": \"d\"}\n"
             "{\"context\": \"a long context\", \"continuation\": \"end\"}\n");
  expect_error(ErrorCode::kRequest, {"1 texts", "context of 8", "item 1", "of 18", "truncate=left"},
               [&] { make_eval_task("lambada:" + file, 0, model(false, 8)); });
  const auto task = make_eval_task("lambada:" + file + ",truncate=left", 0, model(true, 8));
  EXPECT_EQ(text_of(task->texts(1)[0]), "text end");
  EXPECT_EQ(task->texts(1)[0].scored, 4);
  EXPECT_EQ(task->texts(1)[0].prompt, 4);
  EXPECT_EQ(text_of(task->texts(0)[0]), "abc d");
  EXPECT_EQ(task->settings().find("truncated_texts")->as_int(), 1);
  expect_error(ErrorCode::kRequest, {"item 1", "scored has 4 tokens", "context 3"},
               [&] { make_eval_task("lambada:" + file + ",truncate=left", 0, model(false, 3)); });
}

TEST(EvalTasks, BlimpByHand) {
  const auto task = make_eval_task("blimp:tests/data/blimp_tiny.zip", 0, model());
  FakeScorer scorer;
  const auto rows = rows_of(*task, scorer);
  // Sorted: agreement/noun_1, agreement/noun_2, islands/wh.
  EXPECT_EQ(task->size(), 5);
  std::vector<double> right;
  for (size_t i = 0; i < 10; i += 2) {
    EXPECT_EQ(scorer.texts[i].scored, 0);
    EXPECT_TRUE(scorer.texts[i].marker);
    const double good = sum_of("", text_of(scorer.texts[i]));
    right.push_back(good > sum_of("", text_of(scorer.texts[i + 1])) ? 1 : 0);
  }
  EXPECT_EQ(text_of(scorer.texts[0]), "Cats sleep.");
  EXPECT_EQ(text_of(scorer.texts[1]), "Cats sleeps and rest.");
  EXPECT_EQ(right, (std::vector<double>{1, 0, 1, 0, 1}));
  expect_near(rows.at(" accuracy").value, 3.0 / 5);
  expect_near(rows.at("/agreement accuracy").value, 2.0 / 4);
  EXPECT_EQ(rows.at("/agreement accuracy").n, 4);
  expect_near(rows.at("/agreement/noun_1 accuracy").value, 1.0 / 2);
  expect_near(rows.at("/agreement/noun_2 accuracy").value, 1.0 / 2);
  expect_near(rows.at("/islands accuracy").value, 1);
  expect_near(rows.at("/islands/wh accuracy").value, 1);
  EXPECT_EQ(rows.size(), 6u);
  const auto limited = make_eval_task("blimp:tests/data/blimp_tiny.zip", 1, model(true));
  EXPECT_EQ(limited->size(), 3) << "the first of each set";
  EXPECT_EQ(limited->texts(0)[0].prompt, 0);
}

TEST(EvalTasks, ChoiceByHand) {
  const TempDir folder;
  const std::string file = (folder / "set.jsonl").string();
  write_text(file,
             "{\"query\": \"Which? \", \"choices\": [\"aaaa\", \"b\", \" cc \"], \"gold\": 1}\n"
             "{\"context_options\": [\"The cat\", \"The dog\"], \"continuation\": \"ran.\", "
             "\"gold\": 0}\n");
  FakeScorer scorer;
  const auto task = make_eval_task("choice:" + file + ",prefix=Q\\, ,delimiter=\\nA:", 0, model());
  EXPECT_EQ(task->settings().find("delimiter")->as_string(), "\nA:");
  const auto rows = rows_of(*task, scorer);
  ASSERT_EQ(scorer.texts.size(), 5u);
  EXPECT_EQ(text_of(scorer.texts[0]), "Q, Which?\nA: aaaa");
  EXPECT_EQ(text_of(scorer.texts[2]), "Q, Which?\nA: cc");
  EXPECT_EQ(scorer.texts[2].scored, 12);
  EXPECT_EQ(text_of(scorer.texts[4]), "Q, The dog\nA: ran.");
  EXPECT_EQ(scorer.texts[4].scored, 13);
  // The fake scorer likes short ones in sum; per byte it likes later places.
  expect_near(rows.at(" accuracy").value, 1);
  const auto per_byte = [](const char* choice) {
    return sum_of("Q, Which?\nA:", std::string(" ") + choice) /
           static_cast<double>(std::string(choice).size());
  };
  ASSERT_GT(per_byte("aaaa"), per_byte("b"));
  expect_near(rows.at(" accuracy_norm").value, 0.5);
  const std::vector<TextScore> scores = scorer.score(task->texts(0));
  const std::vector<double> values = task->measure(0, scores);
  ASSERT_EQ(values.size(), 6u);
  expect_near(values[3], sum_of("Q, Which?\nA:", " aaaa"));
  expect_near(values[5], sum_of("Q, Which?\nA:", " cc"));
  EXPECT_EQ(task->measure(1, scorer.score(task->texts(1))).size(), 6u) << "filled up";
}

TEST(EvalTasks, HellaSwagIsCleaned) {
  const TempDir folder;
  const std::string file = (folder / "set.jsonl").string();
  write_text(file,
             "{\"activity_label\": \"Baking\", \"ctx_a\": \"A cook  [step] stirs.\", \"ctx_b\": "
             "\"then SHE\", \"ctx\": \"unused\", \"endings\": [\"rests [title] Later.\", "
             "\"[header] sings.\"], \"label\": \"1\"}\n"
             "{\"query\": \"As it is [x]:\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n"
             "{\"ctx\": \"Only this\", \"endings\": [\"a\", \"b\"], \"label\": 0}\n");
  const auto task = make_eval_task("hellaswag:" + file, 0, model());
  EXPECT_EQ(text_of(task->texts(0)[0]), "Baking: A cook  stirs. Then she rests. Later.");
  EXPECT_EQ(text_of(task->texts(0)[1]), "Baking: A cook  stirs. Then she  sings.");
  EXPECT_EQ(text_of(task->texts(1)[0]), "As it is [x]: a");
  EXPECT_EQ(text_of(task->texts(2)[1]), "Only this b");
}

TEST(EvalTasks, GeneratedByHand) {
  FakeScorer scorer;
  const auto task = make_eval_task("mqar:vocab=250,n=20,length=32,pairs=4", 0, model());
  EXPECT_EQ(task->size(), 20);
  EXPECT_EQ(task->settings().find("seed")->as_int(), 1) << "not training's";
  const auto rows = rows_of(*task, scorer);
  Node options = Node::map();
  for (const auto& [key, value] :
       std::map<std::string, int64_t>{{"vocab", 250}, {"length", 32}, {"pairs", 4}, {"seed", 1}}) {
    options.set(key, value);
  }
  const auto generator = make_generator("mqar", options, nullptr);
  double all = 0, right = 0, answers = 0, nll = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const TaskExample e = generator->example(i);
    double wrong = 0;
    for (size_t t = 0; t < e.tokens.size(); ++t) {
      if (!e.answer[t]) continue;
      answers += 1;
      wrong += e.tokens[t] == 'z';
      nll -= log_p(e.tokens[t], t);
    }
    right += 4 - wrong;
    all += wrong == 0;
    EXPECT_EQ(scorer.texts[i].prompt, -1);
    EXPECT_TRUE(e.answer[scorer.texts[i].tokens.size() - 1]) << "nothing behind the last answer";
  }
  EXPECT_EQ(answers, 80);
  expect_near(rows.at(" accuracy").value, all / 20);
  expect_near(rows.at(" token_accuracy").value, right / 80);
  expect_near(std::log(rows.at(" token_perplexity").value), nll / 80);
  const auto evicting = make_eval_task("mqar:vocab=250,n=2", 0, model(true));
  EXPECT_EQ(evicting->texts(1)[0].prompt, 8) << "the policy acts before the first question";
  const auto aware = make_eval_task("mqar:vocab=250,query_aware=true,marker=false", 3, model(true));
  EXPECT_EQ(aware->size(), 3);
  EXPECT_EQ(aware->texts(1)[0].prompt, aware->texts(1)[0].scored);
  EXPECT_FALSE(aware->texts(1)[0].marker);
}

TEST(EvalTasks, GeneratedTextsAndLists) {
  FakeScorer scorer;
  const auto task = make_eval_task("passkey:length=900,n=4", 0, model());
  const auto rows = rows_of(*task, scorer);
  expect_near(rows.at(" accuracy").value, 1);
  EXPECT_EQ(rows.at(" token_accuracy").n, 4 * 6) << "a space and five digits";
  TaskModel large = model();
  large.vocab_size = 8192;
  const auto list = make_eval_task("mqar:config=figure2", 2, large);
  EXPECT_EQ(list->size(), 6);
  EXPECT_EQ(list->settings().find("config")->as_string(), "figure2");
  EXPECT_EQ(list->settings().find("n")->as_int(), 2);
  EXPECT_EQ(task->settings().find("n"), nullptr)
      << "a log goes on when more examples are asked for";
  const std::vector<Metric> metrics = list->metrics();
  ASSERT_EQ(metrics.size(), 12u);
  EXPECT_EQ(metrics[9].task, "mqar:config=figure2/length=256,pairs=16");
  EXPECT_EQ(metrics[9].first, 4);
  EXPECT_EQ(metrics[9].last, 6);
  // Each shape counts its examples from zero.
  const auto single = make_eval_task("mqar:length=128,pairs=8", 2, large);
  EXPECT_EQ(list->texts(3)[0].tokens, single->texts(1)[0].tokens);
}

TEST(EvalTasks, ANeedleIsOneOfNeedles) {
  EXPECT_TRUE(is_eval_task("needle"));
  EXPECT_TRUE(is_eval_task("needle:length=900"));
  const auto one = make_eval_task("needle:length=900", 2, model());
  const auto same = make_eval_task("needles:length=900", 2, model());
  ASSERT_EQ(one->size(), 2);
  EXPECT_EQ(one->texts(1)[0].tokens, same->texts(1)[0].tokens);
}

TEST(EvalTasks, EveryKindIsListed) {
  for (const TaskKind& kind : task_kinds()) {
    EXPECT_TRUE(is_eval_task(kind.name + ":x"));
    EXPECT_FALSE(kind.help.empty());
    EXPECT_EQ(kind.usage.rfind(kind.name, 0), 0u);
  }
  EXPECT_EQ(task_kinds().size(), 14u);
  EXPECT_FALSE(is_eval_task("ppl:x"));
}

TEST(EvalTasks, WrongRequests) {
  const TempDir folder;
  const std::string file = (folder / "set.jsonl").string();
  const auto refuse = [&](const std::string& task, const std::vector<std::string>& why,
                          ErrorCode code = ErrorCode::kRequest) {
    std::vector<std::string> fragments = why;
    fragments.push_back("--task " + task);
    expect_error(code, fragments, [&] { make_eval_task(task, 0, model()); });
  };
  refuse("lambda:x", {"'lambda'", "lambada", "mqar"});
  refuse("lambada", {"needs a file"});
  refuse("lambada:" + file, {"no such file"});
  refuse("mqar:lenght=4", {"lenght", "unknown key", "length"});
  refuse("mqar:length", {"'length' is not key=value"});
  refuse("mqar:length=64,length=64", {"length", "given twice"});
  refuse("mqar:length=x", {"length", "integer"});
  refuse("mqar", {"ids reach 8192", "vocabulary has 256", "set vocab"});
  refuse("mqar:config=none", {"config", "'none'", "figure2"});
  refuse("copy:length=3000,vocab=64", {"6001 tokens", "4096", "set length"});
  refuse("passkey:seed=\\t", {"\\t", "stands for nothing"});
  refuse("needles:n=0", {"n: 0 is not between 1"});
  const auto with = [&](const std::string& kind, const std::string& text,
                        const std::vector<std::string>& why, ErrorCode code = ErrorCode::kRequest) {
    write_text(file, text);
    refuse(kind + ":" + file, why, code);
  };
  with("lambada", "\n\n", {"no items"});
  with("lambada", "{\"context\": \"a\"}\n", {"set.jsonl:1", "continuation", "missing"});
  with("lambada", "\n{\"context\": \"a\", \"continuation\": \" \"}", {"set.jsonl:2", "empty"});
  with("lambada", "{\"context\": 3, \"continuation\": \"\"}", {"context", "expected a string"});
  with("lambada", "[1]\n", {"set.jsonl:1", "JSON object"});
  with("lambada", "{\"context\": \n", {"set.jsonl:1", "invalid JSON"}, ErrorCode::kData);
  with("lambada", "{\"context\": \"\xff\", \"continuation\": \"b\"}", {"invalid JSON"},
       ErrorCode::kData);
  with("choice", "{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}", {"choices", "1 choices"});
  with("choice", "{\"query\": \"a\", \"choices\": [\"b\", 2], \"gold\": 0}", {"list of strings"});
  with("choice", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 2}",
       {"gold", "2 is not one of 2"});
  with("choice", "{\"query\": \"a\", \"choices\": [\"b\", \"c\"]}", {"gold", "missing"});
  with("hellaswag", "{\"ctx\": \"a\", \"endings\": [\"b\", \"c\"], \"label\": \"\"}",
       {"label", "index of the right choice"});
  with("blimp", "{\"sentence_good\": \"a\", \"sentence_bad\": \"b\", \"UID\": \"u\"}",
       {"linguistics_term", "missing"});
  write_text(file, "{\"context\": \"a\", \"continuation\": \"b\"}");
  refuse("lambada:" + file + ",truncat=left", {"truncat", "unknown key"});
  refuse("lambada:" + file + ",truncate=right", {"'right'", "refuse, left"});
  TaskModel none = model();
  none.tokenizer = []() -> const Tokenizer& { fail(ErrorCode::kRequest, "no tokenizer"); };
  expect_error(ErrorCode::kRequest, {"no tokenizer"},
               [&] { make_eval_task("lambada:" + file, 0, none); });
  none.vocab_size = 8192;
  EXPECT_EQ(make_eval_task("mqar:n=3", 0, none)->size(), 3) << "bare ids need none";
}

}  // namespace
}  // namespace ashlar
