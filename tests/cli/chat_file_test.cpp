// chat --session: a conversation goes on in another process as if it had never left this one.

#include <gtest/gtest.h>

#include <set>

#include "cli/chat_session.h"
#include "core/base/rng.h"
#include "core/io/atomic_file.h"
#include "package/format/package.h"
#include "package/import/open_model.h"
#include "tests/cli/chat_model.h"

namespace ashlar::cli {
namespace {
namespace fs = std::filesystem;

using test::expect_error;
using test::TempDir;
using test_commands::Outcome;

const auto kIgnore = [](const std::string&) { return true; };

class ChatFile : public testing::Test {
 protected:
  void SetUp() override { write_package(chat_model(), package()); }
  fs::path package() const { return dir_ / "model"; }
  fs::path file() const { return dir_ / "talks/talk.session"; }
  Outcome talk(const std::string& input, std::vector<std::string> more = {}) {
    fs::create_directory(dir_ / "talks");
    for (const char* word : {"--json", "--session"}) more.emplace_back(word);
    more.push_back(file().string());
    return chat(package(), input, std::move(more));
  }
  // The file is the only one in its folder, and as it was.
  void expect_untouched(const std::string& before) const {
    EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "talks"), {}), 1);
    EXPECT_EQ(read_file(file()), before);
  }
  TempDir dir_;
};

TEST_F(ChatFile, EachTurnInAProcessOfItsOwn) {
  const std::vector<std::vector<std::string>> variants = {
      {},
      {"--kv-codec", "q4:q8", "--kv-fp16-newest", "8", "--system", "Be brief."},
      {"--kv-codec", "q8", "--kv-policy", "h2o", "--kv-budget", "24", "--kv-recent", "8"},
      {"--kv-policy", "snapkv", "--kv-budget", "24", "--kv-window", "6"},
      {"--kv-policy", "streaming", "--kv-budget", "25%", "--temperature", "2", "--seed", "3"}};
  for (const auto& options : variants) {
    SCOPED_TRACE(options.empty() ? "plain" : options[1]);
    fs::remove(file());
    const std::vector<std::string> messages = {"Hello there, you.", "What else is on the list?",
                                               "\xff and more", "Last"};
    std::string all;
    for (const std::string& message : messages) all += message + "\n";
    std::vector<std::string> json = options;
    json.emplace_back("--json");
    const std::vector<Node> expected = answers(chat(package(), all, json));
    ASSERT_EQ(expected.size(), messages.size());
    for (size_t i = 0; i < messages.size(); ++i) {
      const Outcome outcome = talk(messages[i] + "\n", options);
      const std::vector<Node> rows = answers(outcome);
      ASSERT_EQ(rows.size(), 1u);
      for (const char* key :
           {"text", "tokens", "prompt_tokens", "context_tokens", "kv_bytes", "finish"}) {
        EXPECT_EQ(write_json(*rows[0].find(key)), write_json(*expected[i].find(key))) << key << i;
      }
      EXPECT_EQ(outcome.err.find("[goes on with") != std::string::npos, i > 0) << outcome.err;
      EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "talks"), {}), 1);
    }
    // The messages are there too.
    const fs::path saved = dir_ / "saved.jsonl";
    EXPECT_EQ(talk("/save " + saved.string() + "\n", options).status, 0);
    const std::string text = test::read_text(saved);
    EXPECT_NE(text.find(messages[1]), std::string::npos);
    EXPECT_NE(text.find(write_json(Node(*expected[1].find("text")))), std::string::npos);
  }
}

// Start tokens that the template does not write, blocks, stop tokens, answers that were cut short.
TEST(ChatFiles, GoOnWithEveryKindOfModelAndEnd) {
  ModelData marked = chat_model();
  marked.start_token = 1;
  ModelData block = test::random_model(
      test::spec_from_yaml(
          "kind: block_transformer\nvocab_size: 602\ncontext_length: 240\n"
          "block: {length: 4, prefix_length: 2}\n"
          "global: {d_model: 48, layers: 2, attention: {heads: 4, head_dim: 12}, ffn: {d_ff: 40}}\n"
          "local: {d_model: 24, layers: 2, attention: {heads: 2, head_dim: 12}, ffn: {d_ff: "
          "28}}\n"),
      5);
  block.start_token = 1;
  block.tokenizer_json = marked.tokenizer_json;
  block.chat_template = kTemplate;
  const TempDir dir;
  std::set<std::string> ends;
  for (ModelData model : {chat_model(), marked, block}) {
    for (const bool stops : {false, true}) {
      const fs::path file = dir / "talk";
      fs::remove(file);
      EngineArguments arguments;
      arguments.threads = 1;
      const auto open = [&] {
        auto session = std::make_unique<ChatSession>(model, "test", arguments, "");
        session->settings().max_tokens = 7;
        return session;
      };
      if (stops) {  // the third token of the first answer ends it
        const auto tokens = open()->answer("Hello", kIgnore).result.tokens;
        model.stop_tokens = {tokens[2]};
      }
      const auto whole = open();
      auto part = open();
      for (const std::string message : {"Hello", "More", "Even more", "Last"}) {
        part = open();
        part->keep_in(file, "weights");
        EXPECT_EQ(part->messages().size(), whole->messages().size());
        int pieces = 0;
        const bool cut = message == "More";
        const auto emit = [&](const std::string&) { return !cut || ++pieces % 3 != 0; };
        const ChatAnswer expected = whole->answer(message, emit);
        pieces = 0;
        const ChatAnswer actual = part->answer(message, emit);
        EXPECT_EQ(actual.result.tokens, expected.result.tokens);
        EXPECT_EQ(actual.result.finish, expected.result.finish);
        EXPECT_EQ(actual.prompt_tokens, expected.prompt_tokens);
        EXPECT_EQ(actual.context_tokens, expected.context_tokens);
        EXPECT_EQ(actual.kv_bytes, expected.kv_bytes);
        part->save();
        ends.insert(actual.result.finish);
      }
    }
  }
  EXPECT_EQ(ends, std::set<std::string>({"length", "stop", "interrupted"}));
}

TEST_F(ChatFile, WrongRequestsAndForeignFiles) {
  ASSERT_EQ(talk("Hello\n", {"--system", "Be brief."}).status, 0);
  const std::string before = read_file(file());
  const auto refused = [&](int status, const std::vector<std::string>& fragments,
                           std::vector<std::string> more) {
    const Outcome outcome = talk("More\n", std::move(more));
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& fragment : fragments) {
      EXPECT_NE(outcome.err.find(fragment), std::string::npos) << outcome.err;
    }
    expect_untouched(before);
  };
  refused(2, {"talk.session", "another model, cache or policy", "q8"}, {"--kv-codec", "q8"});
  refused(2, {"another model, cache or policy"}, {"--kv-policy", "h2o", "--kv-budget", "99%"});
  refused(2, {"talk.session", "chat format chatml, this is zephyr"}, {"--chat-template", "zephyr"});
  refused(2, {"--system", "began with another one", "talk.session"}, {"--system", "Be long."});
  EXPECT_EQ(talk("/exit\n", {"--system", "Be brief."}).status, 0);
  expect_untouched(before);

  // Of other weights.
  fs::remove_all(package());
  write_package(chat_model(256, 8), package());
  refused(2, {"talk.session", "another model, cache or policy"}, {});
  fs::remove_all(package());
  write_package(chat_model(), package());
  // `generate` keeps texts, not conversations; neither takes the other's file.
  constexpr AddCommand kCommands[] = {add_generate_command};
  const auto generate = [&](const fs::path& path) {
    return test_commands::run_command(
        kCommands, {"generate", package().string(), "--prompt", "Hello", "--max-tokens", "3",
                    "--json", "--session", path.string()});
  };
  const Outcome other = generate(file());
  EXPECT_EQ(other.status, 2);
  EXPECT_NE(other.err.find("a conversation, which only `chat` goes on with"), std::string::npos);
  expect_untouched(before);
  fs::remove(file());
  ASSERT_EQ(generate(file()).status, 0);
  const std::string text = read_file(file());
  const Outcome mine = talk("Hello\n");
  EXPECT_EQ(mine.status, 2);
  EXPECT_NE(mine.err.find("that `generate` goes on with, no conversation"), std::string::npos);
  expect_untouched(text);

  const Outcome nowhere =
      chat(package(), "Hi\n", {"--session", (dir_ / "nowhere/talk.session").string()});
  EXPECT_EQ(nowhere.status, 2);
  EXPECT_NE(nowhere.err.find("nowhere: no such folder"), std::string::npos) << nowhere.err;
  EXPECT_FALSE(fs::exists(dir_ / "nowhere"));
  EXPECT_NE(chat(package(), "Hi\n", {"--session", dir_.path().string()}).status, 0);
}

TEST_F(ChatFile, DamageIsSeen) {
  ASSERT_EQ(talk("Hello\n").status, 0);
  const std::string whole = read_file(file());
  const ModelData model = open_model(package().string());
  const Philox rng(5);
  ChatSession session(model, "test", {}, "");
  for (uint64_t i = 0; i < 200; ++i) {
    std::string damaged = whole;
    if (i % 4 == 0) {
      damaged.resize(rng.below(3 * i, whole.size()));
    } else {
      damaged[rng.below(3 * i, i % 4 == 1 ? 900 : whole.size())] ^=
          static_cast<char>(1 << rng.below(3 * i + 1, 8));
    }
    write_file_atomically(file(), damaged);
    try {
      session.keep_in(file(), weights_sha256(model));
      ADD_FAILURE() << "damage " << i << " was not seen";
      break;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kData || error.code() == ErrorCode::kRequest);
      EXPECT_NE(std::string(error.what()).find("talk.session"), std::string::npos) << error.what();
    }
    EXPECT_TRUE(session.messages().empty());
    EXPECT_EQ(session.context_tokens(), 0);
    expect_untouched(damaged);
  }
  write_file_atomically(file(), whole.substr(0, whole.size() / 2));
  const Outcome outcome = talk("Hello\n");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("talk.session"), std::string::npos) << outcome.err;
  expect_untouched(whole.substr(0, whole.size() / 2));
}

// A file whose checksum is right can still tell nonsense.
TEST(ChatFiles, NonsenseIsRefused) {
  const ModelData model = chat_model();
  const TempDir dir;
  const fs::path file = dir / "talk";
  ChatSession session(model, "test", {}, "");
  session.settings().max_tokens = 4;
  session.keep_in(file, "weights");
  session.answer("Hello", kIgnore);
  session.save();
  const CacheChoice cache = choose_cache({}, model, model.spec.context_length);
  const SessionOrigin origin{"weights", cache.options, cache.policy_options};
  Engine engine(model, {});
  const SavedChat good = restore_chat(engine, origin, nullptr, file);
  const Node root = parse_json(good.transcript, "transcript");
  const auto refuses = [&](const std::string& fragment, const std::string& transcript) {
    SCOPED_TRACE(transcript);
    save_chat(engine, *good.sequence, origin, transcript, file);
    ChatSession other(model, "test", {}, "");
    expect_error(ErrorCode::kData, {"talk", fragment}, [&] { other.keep_in(file, "weights"); });
    EXPECT_TRUE(other.messages().empty());
  };
  const auto changed = [&](const std::string& key, const Node& value) {
    Node copy = root;
    copy.set(key, value);
    return write_json(copy);
  };
  refuses("talk", "");
  refuses("talk", "[1]");
  refuses("talk", "{");
  refuses("answers", changed("answers", -1));
  refuses("colour", changed("colour", "red"));
  refuses("list", changed("messages", "none"));
  refuses("holds 0 messages", changed("messages", Node::list()));
  refuses("role", changed("messages", Node(Node::List{Node(Node::Map{{"content", "x"}})})));
  refuses("unfed", changed("unfed", 2));
  refuses("are not those of a cache of", changed("unfed", 0));
  refuses("are not those of a cache of", changed("tokens", Node::list()));
  refuses("outside the model's vocabulary",
          changed("tokens", Node(Node::List{Node(int64_t{602})})));
  refuses("integer", changed("tokens", Node(Node::List{Node("x")})));
  save_chat(engine, *good.sequence, origin, good.transcript, file);
  ChatSession again(model, "test", {}, "");
  again.keep_in(file, "weights");
  EXPECT_EQ(again.messages().size(), 2u);
}

TEST(ChatFiles, AnErrorTakesTheConversationBackToItsFile) {
  const ModelData model = chat_model();
  const TempDir dir;
  EngineArguments arguments;
  ChatSession plain(model, "test", arguments, "");
  plain.settings().max_tokens = 3;
  plain.answer("Hello", kIgnore);
  const ChatAnswer expected = plain.answer("b", kIgnore);

  arguments.cache.limit = std::to_string(expected.kv_bytes + 8192);
  const std::string longer(150, 'x');
  const auto fails = [&](ChatSession& session) {
    session.settings().max_tokens = 3;
    session.answer("Hello", kIgnore);
    session.save();
    expect_error(ErrorCode::kRequest, {"its limit is"}, [&] { session.answer(longer, kIgnore); });
  };
  ChatSession kept(model, "test", arguments, ""), lost(model, "test", arguments, "");
  kept.keep_in(dir / "talk", "weights");
  ASSERT_NO_FATAL_FAILURE(fails(kept));
  EXPECT_EQ(kept.messages().size(), 2u);
  const ChatAnswer actual = kept.answer("b", kIgnore);
  EXPECT_EQ(actual.result.tokens, expected.result.tokens);
  EXPECT_EQ(actual.context_tokens, expected.context_tokens);
  ASSERT_NO_FATAL_FAILURE(fails(lost));
  EXPECT_TRUE(lost.messages().empty());
  // Forgetting means the file as well.
  EXPECT_TRUE(fs::exists(dir / "talk"));
  kept.reset();
  EXPECT_FALSE(fs::exists(dir / "talk"));
  kept.save();
  EXPECT_FALSE(fs::exists(dir / "talk")) << "nothing has been said";
  kept.answer("Hello", kIgnore);
  kept.save();
  EXPECT_TRUE(fs::exists(dir / "talk"));
}

TEST(ChatFiles, AnAnswerIsNotLostWhenTheFileIs) {
  const ModelData model = chat_model();
  const TempDir dir;
  fs::create_directory(dir / "talks");
  ChatSession session(model, "test", {}, "");
  session.settings().max_tokens = 3;
  session.keep_in(dir / "talks/talk", "weights");
  session.answer("Hello", kIgnore);
  fs::remove_all(dir / "talks");
  test::write_text(dir / "talks", "no folder any more");
  expect_error(ErrorCode::kIo, {"talk"}, [&] { session.save(); });
  EXPECT_EQ(session.messages().size(), 2u);
  session.answer("More", kIgnore);
  fs::remove(dir / "talks");
  fs::create_directory(dir / "talks");
  session.save();
  ChatSession again(model, "test", {}, "");
  again.keep_in(dir / "talks/talk", "weights");
  EXPECT_EQ(again.messages().size(), 4u);
}

}  // namespace
}  // namespace ashlar::cli
