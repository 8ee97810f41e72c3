#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "cli/app.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"
#include "package/format/package.h"
#include "tests/cli/chat_model.h"
#include "tests/support/files.h"

namespace ashlar::cli {
namespace {

using test::expect_error;
using test::TempDir;
using test_commands::Outcome;

class ChatCommand : public testing::Test {
 protected:
  void SetUp() override { write_package(chat_model(), package()); }
  std::filesystem::path package() const { return dir_ / "model"; }
  TempDir dir_;
};

TEST_F(ChatCommand, OneJsonLineForEachMessage) {
  const std::vector<Node> rows = answers(chat(package(), "Hello\n\nAnd again", {"--json"}));
  ASSERT_EQ(rows.size(), 2u);
  for (const char* key : {"text", "tokens", "prompt_tokens", "tokens_per_second", "context_tokens",
                          "kv_bytes", "finish"}) {
    EXPECT_NE(rows[0].find(key), nullptr) << key;
  }
  // What had been fed stays, and the second message brings only its own tokens.
  EXPECT_GT(rows[1].find("context_tokens")->as_int(), rows[0].find("context_tokens")->as_int());
  EXPECT_LT(rows[1].find("prompt_tokens")->as_int(), rows[0].find("context_tokens")->as_int() + 30);
  EXPECT_GT(rows[1].find("kv_bytes")->as_int(), 0);
}

TEST_F(ChatCommand, PlainTextIsTheSameAnswersAndOneLineOfFigures) {
  const std::vector<Node> rows = answers(chat(package(), "Hello\nMore\n", {"--json"}));
  const Outcome plain = chat(package(), "Hello\nMore\n");
  EXPECT_EQ(plain.status, 0);
  EXPECT_EQ(plain.out,
            rows[0].find("text")->as_string() + "\n" + rows[1].find("text")->as_string() + "\n");
  EXPECT_EQ(std::count(plain.err.begin(), plain.err.end(), '\n'), 2) << plain.err;
  for (const char* part : {"tokens at", "context", "KV", "bytes", "length"}) {
    EXPECT_NE(plain.err.find(part), std::string::npos) << part;
  }
}

TEST_F(ChatCommand, ResetBeginsAfresh) {
  const std::vector<Node> rows =
      answers(chat(package(), "Hello\nOther\n/reset\nHello\n", {"--json"}));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[2].find("text")->as_string(), rows[0].find("text")->as_string());
  EXPECT_EQ(rows[2].find("prompt_tokens")->as_int(), rows[0].find("prompt_tokens")->as_int());
}

TEST_F(ChatCommand, SaveWritesTheMessages) {
  const std::filesystem::path file = dir_ / "saved.jsonl";
  const Outcome outcome =
      chat(package(), "Hello \"you\"\xff\n/save " + file.string() + "\n/exit\nnever\n",
           {"--system", "Be brief."});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const std::string text = test::read_text(file);
  ASSERT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_EQ(text.find(R"({"role":"system","content":"Be brief."})"), 0u) << text;
  // What was typed need not be UTF-8, JSON is.
  EXPECT_NE(text.find("{\"role\":\"user\",\"content\":\"Hello \\\"you\\\"\xef\xbf\xbd\"}"),
            std::string::npos)
      << text;
  const Node last = parse_json(text.substr(text.rfind("\n{") + 1), "saved");
  EXPECT_EQ(last.find("content")->as_string() + "\n", outcome.out);
}

TEST_F(ChatCommand, SettingsChangeWhatFollows) {
  const Outcome outcome = chat(
      package(),
      "/settings\n/settings max-tokens 2\n/settings temperature 0.5\n/settings system x y\nHi\n",
      {"--json"});
  const std::vector<Node> rows = answers(outcome);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].find("tokens")->as_int(), 2);
  EXPECT_NE(outcome.err.find("max-tokens 6, system (the model's own)"), std::string::npos);
  EXPECT_NE(outcome.err.find("temperature 0.5"), std::string::npos);
  EXPECT_NE(outcome.err.find("system \"x y\""), std::string::npos) << outcome.err;
}

TEST_F(ChatCommand, TwoSlashesAreAMessage) {
  const std::vector<Node> rows = answers(chat(package(), "//reset\n", {"--json"}));
  ASSERT_EQ(rows.size(), 1u);
}

TEST_F(ChatCommand, WrongRequests) {
  const auto refused = [&](const std::string& input, int status, const std::string& fragment,
                           std::vector<std::string> more = {}) {
    const Outcome outcome = chat(package(), input, std::move(more));
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_NE(outcome.err.find(fragment), std::string::npos) << outcome.err;
  };
  refused("/frob\n", 2, "/frob: unknown command, see /help");
  refused("/save\n", 2, "/save: needs a file");
  // A file is no folder.
  refused("/save " + (package() / "config.json" / "x").string() + "\n", 1, "config.json");
  refused("/settings colour red\n", 2, "'colour' is not one of temperature");
  refused("/settings top-k many\n", 2, "'many' is no number");
  refused("/settings top-p 7\n", 2, "--top-p");
  refused("/settings max-tokens 0\n", 2, "not positive");
  refused("Hi\n", 2, "'alpaca' is not one of chatml", {"--chat-template", "alpaca"});
  refused("Hi\n", 2, "needs the special token '<|eot_id|>'", {"--chat-template", "llama3"});
  refused("Hi\n", 2, "--temperature", {"--temperature", "-1"});
  refused("Hi\n", 2, "needs a --kv-budget", {"--kv-policy", "h2o"});
}

TEST_F(ChatCommand, ModelsWithoutATemplateNeedAName) {
  ModelData bare = chat_model();
  bare.chat_template.clear();
  write_package(bare, dir_ / "bare");
  const Outcome refused = chat(dir_ / "bare", "Hi\n");
  EXPECT_EQ(refused.status, 2);
  EXPECT_NE(refused.err.find("has no chat template: name one with --chat-template"),
            std::string::npos)
      << refused.err;
  EXPECT_EQ(answers(chat(dir_ / "bare", "Hi\n", {"--json", "--chat-template", "chatml"})).size(),
            1u);
}

TEST_F(ChatCommand, CodecsAndPolicies) {
  const std::vector<Node> rows =
      answers(chat(package(), "Hello there, you.\nWhat else is in the list?\nMore.\n",
                   {"--json", "--kv-codec", "q8", "--kv-policy", "h2o", "--kv-budget", "24",
                    "--kv-recent", "8"}));
  ASSERT_EQ(rows.size(), 3u);
}

TEST_F(ChatCommand, AFullContextSaysSo) {
  write_package(chat_model(48), dir_ / "short");
  const Outcome outcome =
      chat(dir_ / "short", "Hello\n" + std::string(200, 'x') + "\n", {"--json"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("the context of 48 tokens is full"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("/reset begins a new conversation"), std::string::npos);
}

// Turn by turn, answers of every kind of end included, is the text fed at once.
TEST(ChatSession, TurnsEqualTheWholeTextFedAtOnce) {
  ModelData model = chat_model();
  const EngineArguments arguments;
  ChatSession session(model, "test", arguments, "");
  session.settings().max_tokens = 5;
  const auto ignore = [](const std::string&) { return true; };
  const ChatAnswer one = session.answer("Hello", ignore);
  int pieces = 0;
  const ChatAnswer two = session.answer("More", [&](const std::string&) { return ++pieces < 3; });
  EXPECT_EQ(two.result.finish, "interrupted");
  EXPECT_EQ(two.result.tokens.size(), 3u);
  const ChatAnswer three = session.answer("Last", ignore);

  const auto tokenizer = parse_hf_tokenizer(model.tokenizer_json, "test");
  const auto format = recognise_chat_format(kTemplate, chat_context(*tokenizer), "test");
  const std::vector<ChatMessage> hello = {{"user", "Hello"}};
  GenerateRequest request;
  request.prompt = tokenizer->encode_pieces(format->render(hello, true));
  const auto add = [&](const std::vector<int32_t>& ids) {
    request.prompt.insert(request.prompt.end(), ids.begin(), ids.end());
  };
  add(one.result.tokens);
  add(tokenizer->encode_pieces(format->next_turn("More"), false));
  add(two.result.tokens);
  add(tokenizer->encode_pieces(format->next_turn("Last"), false));
  request.max_tokens = 5;
  request.stop_tokens = model.stop_tokens;
  request.stop_tokens.push_back(*tokenizer->find_token("<|im_end|>"));
  Engine engine(model, arguments.engine_options());
  const CacheChoice cache = choose_cache(arguments, model, 256);
  const auto sequence = engine.start(cache.options, cache.policy, false);
  const GenerateResult whole = generate(engine, *sequence, request, [](int32_t) { return true; });
  EXPECT_EQ(whole.tokens, three.result.tokens);
  EXPECT_EQ(sequence->length(), three.context_tokens);
}

TEST(ChatSession, AnswersDrawWithSeedsOfTheirOwn) {
  const ModelData model = chat_model();
  const auto ignore = [](const std::string&) { return true; };
  const auto fresh = [&](uint64_t seed) {
    ChatSession session(model, "test", {}, "");
    session.settings().sampling.temperature = 5;
    session.settings().sampling.seed = seed;
    session.settings().max_tokens = 8;
    const ChatAnswer first = session.answer("Hello", ignore);
    session.reset();
    return std::pair(first.text, session.answer("Hello", ignore).text);
  };
  const auto [first, second] = fresh(3);
  EXPECT_NE(first, second);
  EXPECT_EQ(fresh(3), std::pair(first, second));
  EXPECT_EQ(fresh(4).first, second);
}

TEST(ChatSession, AFullContextLeavesTheConversation) {
  const ModelData model = chat_model(64);
  ChatSession session(model, "test", {}, "");
  session.settings().max_tokens = 3;
  const auto ignore = [](const std::string&) { return true; };
  const ChatAnswer one = session.answer("Hello", ignore);
  expect_error(ErrorCode::kResource, {"is full"},
               [&] { session.answer(std::string(300, 'x'), ignore); });
  EXPECT_EQ(session.messages().size(), 2u);
  EXPECT_GT(session.answer("b", ignore).context_tokens, one.context_tokens);
}

TEST(LineReader, LinesAndInterrupts) {
  int ends[2] = {};
  ASSERT_EQ(pipe(ends), 0);
  LineReader reader(ends[0]);
  std::string line;
  const std::string text = "one\r\ntwo\nhalf";
  ASSERT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_EQ(reader.next(line), LineReader::Status::kLine);
  EXPECT_EQ(line, "one");
  EXPECT_EQ(reader.next(line), LineReader::Status::kLine);
  EXPECT_EQ(line, "two");
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, &before);
  const pthread_t self = pthread_self();
  std::atomic<bool> stopped = false;
  std::thread signals([&] {
    while (!stopped) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  EXPECT_EQ(reader.next(line), LineReader::Status::kInterrupted);
  stopped = true;
  signals.join();
  sigaction(SIGUSR1, &before, nullptr);
  ASSERT_EQ(write(ends[1], "end", 3), 3);
  close(ends[1]);
  EXPECT_EQ(reader.next(line), LineReader::Status::kLine);
  EXPECT_EQ(line, "end");  // what had been typed before the interrupt is dropped
  EXPECT_EQ(reader.next(line), LineReader::Status::kEnd);
  close(ends[0]);
}

}  // namespace
}  // namespace ashlar::cli
