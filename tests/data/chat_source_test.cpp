#include "data/shards/chat_source.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/base/error.h"
#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"
#include "tests/data/families.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

using test::expect_error;
using test::TempDir;
using test_families::shape_of;

std::unique_ptr<Tokenizer> smollm() {
  return parse_hf_tokenizer(write_json(shape_of("smollm")), "smollm");
}

// Every template that has been compared with Jinja, under its vocabulary.
const Node& chats() {
  static const Node node = load_json("tests/golden/chat_golden.json");
  return node;
}
std::unique_ptr<Tokenizer> tokenizer_of(const Node& entry) {
  Node root = shape_of(entry.find("family")->as_string());
  auto id = static_cast<int64_t>(root.find("model")->find("vocab")->as_map().size());
  for (const Node& content : entry.find("special")->as_list()) {
    root.find("added_tokens")
        ->push(Node::Map{{"id", id++},
                         {"content", content},
                         {"special", true},
                         {"normalized", false},
                         {"rstrip", *entry.find("rstrip")}});
  }
  return parse_hf_tokenizer(write_json(root), "chat");
}

// The ids are those of the prompt the chat command feeds, then the answer's, marked.
TEST(EncodeChat, AnswersFollowThePromptThatAsksForThem) {
  const std::vector<ChatMessage> whole = {
      {"user", "One?"}, {"assistant", "The first."}, {"user", "Two?"}, {"assistant", "A second"}};
  for (const auto& [name, entry] : chats().find("templates")->as_map()) {
    SCOPED_TRACE(name);
    const ChatContext context{entry.find("bos")->as_string(), entry.find("eos")->as_string(),
                              chats().find("date")->as_string()};
    const auto format = recognise_chat_format(entry.find("template")->as_string(), context, "test");
    const auto tokenizer = tokenizer_of(entry);
    const ChatExample example = encode_chat(whole, *format, *tokenizer);
    ASSERT_EQ(example.tokens.size(), example.answer.size());
    // What is marked, in runs.
    std::vector<std::vector<int32_t>> answers;
    for (size_t t = 0; t < example.tokens.size(); ++t) {
      if (example.answer[t] == 0) continue;
      if (t == 0 || example.answer[t - 1] == 0) answers.emplace_back();
      answers.back().push_back(example.tokens[t]);
    }
    ASSERT_EQ(answers.size(), 2u);
    std::vector<std::string> written;
    bool inside = false;
    for (const TextPiece& piece : format->render(whole, false)) {
      if (piece.answer && !inside) written.emplace_back();
      inside = piece.answer;
      if (inside) written.back() += piece.text;
    }
    ASSERT_EQ(written.size(), 2u);
    const std::string end = format->stops().at(0);
    for (size_t a = 0; a < 2; ++a) {
      EXPECT_EQ(answers[a].back(), *tokenizer->find_token(end));
      std::string text;
      for (int32_t id : answers[a]) text += tokenizer->token_bytes(id);
      EXPECT_EQ(text, written[a]) << "no space of the tokenizer's own";
      EXPECT_NE(text.find(whole[2 * a + 1].content), std::string::npos);
    }
    const std::vector<ChatMessage> first = {whole[0]};
    const std::vector<int32_t> prompt = tokenizer->encode_pieces(format->render(first, true));
    ASSERT_LT(prompt.size(), example.tokens.size());
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), example.tokens.begin()));
    EXPECT_EQ(example.answer[prompt.size()], 1);
    EXPECT_EQ(example.answer[prompt.size() - 1], 0);
  }
}

TEST(ReadChats, LinesBecomeConversations) {
  const TempDir dir;
  test::write_text(dir / "c.jsonl",
                   "{\"id\": 7, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
                   "{\"role\": \"assistant\", \"content\": \"b\"}]}\n\n"
                   "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": "
                   "\"assistant\", \"content\": \"<|im_end|>\", \"name\": \"x\"}]}\n");
  const auto tokenizer = smollm();
  const auto format = chat_format("chatml", {});
  const auto chats = read_chats(dir / "c.jsonl", *format, *tokenizer);
  ASSERT_EQ(chats.size(), 2u);
  EXPECT_EQ(tokenizer->decode(chats[0].tokens, true),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n");
  // The end that is written in an answer is text; the real one is a token.
  const int32_t end = *tokenizer->find_token("<|im_end|>");
  EXPECT_EQ(std::count(chats[1].tokens.begin(), chats[1].tokens.end(), end), 2);
}

TEST(ReadChats, MistakesNameTheirLine) {
  const TempDir dir;
  const auto tokenizer = smollm();
  const auto refuses = [&](const std::string& line, const std::vector<std::string>& why,
                           const char* name = "chatml", ErrorCode code = ErrorCode::kData) {
    test::write_text(dir / "c.jsonl", "\n" + line + "\n");
    std::vector<std::string> fragments = why;
    if (code == ErrorCode::kData && !line.empty()) fragments.emplace_back("c.jsonl:2: ");
    expect_error(code, fragments, [&] {
      read_chats(dir / "c.jsonl", *chat_format(name, chat_context(*tokenizer)), *tokenizer);
    });
  };
  const auto messages = [](const std::string& list) { return "{\"messages\": [" + list + "]}"; };
  const std::string user = "{\"role\": \"user\", \"content\": \"a\"}";
  const std::string assistant = "{\"role\": \"assistant\", \"content\": \"b\"}";
  refuses("{\"messages\": [", {});
  refuses("[]", {"a list under \"messages\""});
  refuses("{\"text\": \"a\"}", {"a list under \"messages\""});
  refuses(messages("\"a\""), {"role and content"});
  refuses(messages("{\"role\": \"user\"}"), {"role and content"});
  refuses(messages("{\"role\": \"user\", \"content\": null}"), {"role and content"});
  refuses(messages("{\"role\": \"tool\", \"content\": \"a\"}," + assistant), {"role 'tool'"});
  refuses(messages(user), {"no message of the assistant"});
  refuses(messages(""), {"no message of the assistant"});
  refuses(messages(user + ", {\"role\": \"assistant\", \"content\": \" \\n\"}"), {"is empty"});
  refuses(messages(assistant + "," + user), {"take turns"}, "llama2");
  refuses("", {"holds no conversation"});
  expect_error(ErrorCode::kRequest, {"gone.jsonl"},
               [&] { read_chats(dir / "gone.jsonl", *chat_format("chatml", {}), *tokenizer); });
  test::write_text(dir / "c.txt", "a");
  expect_error(ErrorCode::kRequest, {"c.txt", ".jsonl"},
               [&] { read_chats(dir / "c.txt", *chat_format("chatml", {}), *tokenizer); });
}

// Conversation i: `length` tokens 100·i + place, the last two of them an answer.
ChatExample example(int32_t i, int32_t length) {
  ChatExample out;
  for (int32_t t = 0; t < length; ++t) {
    out.tokens.push_back(100 * i + t);
    out.answer.push_back(t + 2 >= length ? 1 : 0);
  }
  return out;
}

ChatSource::Options in_order() {
  ChatSource::Options options;
  options.eos = 7;
  options.shuffled = false;
  return options;
}

using Ids = std::vector<int32_t>;
using Weights = std::vector<float>;

TEST(ChatSource, OnlyAnswersCarryWeightAndTheMarkerStandsOnce) {
  ChatSource::Options options = in_order();
  ChatExample marked = example(2, 3);
  marked.tokens.front() = 7;
  const ChatSource source({example(1, 4), marked}, 6, options, "c");
  EXPECT_EQ(source.windows(), 2);
  const Batch batch = source.batch(0, 2);
  EXPECT_EQ(batch.tokens, (Ids{7, 100, 101, 102, 7, 7, 7, 201, 7, 7, 7, 7}));
  EXPECT_EQ(batch.targets, (Ids{100, 101, 102, 103, 7, 7, 201, 202, 7, 7, 7, 7}));
  EXPECT_EQ(batch.loss_weight, (Weights{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0}));
  options.answers_only = false;
  options.marker = false;
  const Batch block = ChatSource({example(1, 4)}, 6, options, "c").batch(0, 1);
  EXPECT_EQ(block.tokens, (Ids{100, 101, 102, 7, 7, 7}));
  EXPECT_EQ(block.targets, (Ids{101, 102, 103, 7, 7, 7}));
  EXPECT_EQ(block.loss_weight, (Weights{1, 1, 1, 0, 0, 0}));
}

TEST(ChatSource, TooLongOnesAreCutOrLeftOut) {
  ChatSource::Options options = in_order();
  const std::vector<ChatExample> examples = {example(1, 5), example(2, 6), example(3, 7)};
  const ChatSource cut(examples, 5, options, "c");
  EXPECT_EQ(cut.windows(), 2);
  EXPECT_EQ(cut.counts().conversations, 2);
  EXPECT_EQ(cut.counts().cut, 1);
  EXPECT_EQ(cut.counts().left_out, 1) << "no answer in the first five tokens";
  EXPECT_EQ(cut.batch(1, 1).targets, (Ids{200, 201, 202, 203, 204}));
  EXPECT_EQ(cut.batch(1, 1).loss_weight, (Weights{0, 0, 0, 0, 1}));
  options.too_long = ChatSource::TooLong::kSkip;
  const ChatSource skip(examples, 5, options, "c");
  EXPECT_EQ(skip.counts().conversations, 1);
  EXPECT_EQ(skip.counts().cut, 0);
  EXPECT_EQ(skip.counts().left_out, 2);
  expect_error(ErrorCode::kRequest, {"c: none of its 3 conversations", "context of 2"},
               [&] { ChatSource(examples, 2, options, "c"); });
}

TEST(ChatSource, PackingFillsSamplesInOrderWithDocumentsOfTheirOwn) {
  ChatSource::Options options = in_order();
  options.pack = true;
  // With a marker as many rows as tokens: 3 + 4 | 8 | 2.
  const ChatSource source({example(1, 3), example(2, 4), example(3, 8), example(4, 2)}, 8, options,
                          "c");
  ASSERT_EQ(source.windows(), 3);
  const Batch batch = source.batch(0, 3);
  EXPECT_EQ(batch.tokens, (Ids{7, 100, 101, 7,   200, 201, 202, 7,    //
                               7, 300, 301, 302, 303, 304, 305, 306,  //
                               7, 400, 7,   7,   7,   7,   7,   7}));
  EXPECT_EQ(batch.segment_ids, (Ids{0, 0, 0, 1, 1, 1, 1, 2,  //
                                    0, 0, 0, 0, 0, 0, 0, 0,  //
                                    0, 0, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(batch.loss_weight, (Weights{0, 1, 1, 0, 0, 1, 1, 0,  //
                                        0, 0, 0, 0, 0, 0, 1, 1,  //
                                        1, 1, 0, 0, 0, 0, 0, 0}));
}

TEST(ChatSource, EpochsHoldEveryConversationOnceWhateverTheBatches) {
  std::vector<ChatExample> examples;
  for (int32_t i = 0; i < 20; ++i) examples.push_back(example(i, 3));
  ChatSource::Options options;
  options.seed = 5;
  options.eos = 7;
  const ChatSource source(examples, 4, options, "c");
  const Batch all = source.batch(0, 40);
  std::vector<std::vector<int32_t>> epochs(2);
  for (int64_t s = 0; s < 40; ++s) {
    const Batch one = source.batch(s, 1);
    EXPECT_EQ(one.targets[0], all.targets[static_cast<size_t>(s) * 4]);
    epochs[static_cast<size_t>(s / 20)].push_back(one.targets[0]);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  for (const auto& epoch : epochs) {
    EXPECT_EQ(std::set<int32_t>(epoch.begin(), epoch.end()).size(), 20u);
    EXPECT_FALSE(std::is_sorted(epoch.begin(), epoch.end()));
  }
}

}  // namespace
}  // namespace ashlar
