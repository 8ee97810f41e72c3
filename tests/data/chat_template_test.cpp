#include "data/tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/io/json.h"
#include "data/tokenizer/hf_json.h"
#include "tests/data/families.h"
#include "tests/support/files.h"

// Against the published templates run by Jinja 3.1.6 (tests/golden/make_chat_golden.py).
namespace ashlar {
namespace {

using test::expect_error;
using test_families::ids_of;
using test_families::shape_of;

const Node& chats() {
  static const Node node = load_json("tests/golden/chat_golden.json");
  return node;
}

std::vector<ChatMessage> conversation(size_t i) {
  std::vector<ChatMessage> out;
  for (const Node& message : chats().find("conversations")->as_list()[i].as_list()) {
    out.push_back({message.find("role")->as_string(), message.find("content")->as_string()});
  }
  return out;
}
size_t conversations() { return chats().find("conversations")->as_list().size(); }
size_t injected() { return static_cast<size_t>(chats().find("injected")->as_int()); }

ChatContext context_of(const Node& entry) {
  return {entry.find("bos")->as_string(), entry.find("eos")->as_string(),
          chats().find("date")->as_string()};
}

/// The entry's vocabulary: a family's with special tokens of its own.
std::unique_ptr<Tokenizer> tokenizer_of(const Node& entry) {
  Node root = shape_of(entry.find("family")->as_string());
  auto id = static_cast<int64_t>(root.find("model")->find("vocab")->as_map().size());
  for (const Node& content : entry.find("special")->as_list()) {
    Node token = Node::map();
    token.set("id", id++);
    token.set("content", content);
    token.set("special", true);
    token.set("normalized", false);
    token.set("rstrip", *entry.find("rstrip"));
    root.find("added_tokens")->push(std::move(token));
  }
  return parse_hf_tokenizer(write_json(root), "chat");
}

std::unique_ptr<ChatFormat> format_of(const Node& entry) {
  return recognise_chat_format(entry.find("template")->as_string(), context_of(entry), "test");
}

std::string joined(const std::vector<TextPiece>& pieces) {
  std::string text;
  for (const TextPiece& piece : pieces) text += piece.text;
  return text;
}

TEST(ChatTemplate, TextAndIdsEqualJinja) {
  for (const auto& [name, entry] : chats().find("templates")->as_map()) {
    SCOPED_TRACE(name);
    const auto format = format_of(entry);
    const auto tokenizer = tokenizer_of(entry);
    check_chat_tokens(*format, *tokenizer, name);
    for (size_t i = 0; i < conversations(); ++i) {
      SCOPED_TRACE(i);
      const std::vector<ChatMessage> messages = conversation(i);
      const bool answer = messages.back().role == "user";
      const Node& expected = entry.find("rendered")->as_list()[i];
      if (expected.is_null()) {
        expect_error(ErrorCode::kRequest, {"chat:"}, [&] { format->render(messages, answer); });
        continue;
      }
      const std::vector<TextPiece> pieces = format->render(messages, answer);
      EXPECT_EQ(joined(pieces), expected.find("text")->as_string());
      if (i == injected()) continue;
      EXPECT_EQ(tokenizer->encode_pieces(pieces), ids_of(*expected.find("ids")));
    }
  }
}

TEST(ChatTemplate, MessagesNeverBecomeSpecialTokens) {
  for (const auto& [name, entry] : chats().find("templates")->as_map()) {
    SCOPED_TRACE(name);
    const auto format = format_of(entry);
    const auto tokenizer = tokenizer_of(entry);
    const auto specials = [&](const std::vector<ChatMessage>& messages) {
      const std::vector<int32_t> ids = tokenizer->encode_pieces(format->render(messages, true));
      return std::count_if(ids.begin(), ids.end(),
                           [&](int32_t id) { return tokenizer->is_special(id); });
    };
    std::vector<ChatMessage> harmless = conversation(injected());
    for (ChatMessage& message : harmless) message.content.assign(1, 'x');
    EXPECT_EQ(specials(conversation(injected())), specials(harmless));
  }
}

// What is fed turn by turn is the text of the whole conversation, except that Mistral's templates
// move the system prompt to the last question and Qwen3's forgets earlier reasoning.
TEST(ChatTemplate, TurnsContinueTheConversation) {
  for (const auto& [name, entry] : chats().find("templates")->as_map()) {
    SCOPED_TRACE(name);
    const auto format = format_of(entry);
    const std::vector<ChatMessage> whole = conversation(2);
    const std::vector<ChatMessage> first = {whole[0]};
    std::string text = joined(format->render(first, true));
    const std::string all = joined(format->render(whole, true));
    const size_t at = all.find(whole[1].content, text.size());
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(all.substr(0, text.size()), text);
    text += all.substr(text.size(), at - text.size());  // the space some models begin with
    EXPECT_EQ(text + whole[1].content + joined(format->next_turn(whole[2].content)), all);
  }
}

TEST(ChatTemplate, FormatsByName) {
  const ChatContext context;
  const std::vector<ChatMessage> hi = {{"user", "hi"}};
  const auto text = [&](const char* name) {
    return joined(chat_format(name, context)->render(hi, true));
  };
  EXPECT_EQ(text("chatml"), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(text("llama2"), "<s>[INST] hi [/INST]");
  EXPECT_EQ(text("mistral-v1"), "<s> [INST] hi [/INST]");
  EXPECT_EQ(text("mistral-v3"), "<s>[INST] hi[/INST]");
  EXPECT_EQ(text("mistral-tekken"), "<s>[INST]hi[/INST]");
  EXPECT_EQ(text("zephyr"), "<|user|>\nhi</s>\n<|assistant|>\n");
  EXPECT_EQ(text("phi3"), "<|user|>\nhi<|end|>\n<|assistant|>\n");
  EXPECT_EQ(
      text("llama3"),
      "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant"
      "<|end_header_id|>\n\n");
  expect_error(ErrorCode::kRequest, {"--chat-template: 'alpaca' is not one of chatml", "zephyr"},
               [&] { chat_format("alpaca", context); });
  expect_error(ErrorCode::kRequest, {"mistral-v9"}, [&] { chat_format("mistral-v9", context); });
}

TEST(ChatTemplate, UnknownTemplatesNameTheKnown) {
  const auto refused = [](const std::string& text) {
    expect_error(
        ErrorCode::kRequest,
        {"m.gguf: the chat template is of no known family", "--chat-template", "chatml, llama2"},
        [&] { recognise_chat_format(text, {}, "m.gguf"); });
  };
  refused("");
  refused("{{ messages }}");
  refused("### Instruction: {{ messages[0]['content'] }}");
  refused("<|im_start|>system<|im_sep|>{{ x }}<|im_end|>");
  refused("<|im_start|>{{ message['content'] | trim }}<|im_end|>");
  refused("[SYSTEM_PROMPT]{{ s }}[/SYSTEM_PROMPT][INST]{{ u }}[/INST]");
  refused("[gMASK]<sop><|user|>{{ u }}<|assistant|>");
}

TEST(ChatTemplate, BadConversationsAndVocabularies) {
  const auto format = chat_format("llama2", {});
  const auto refused = [&](std::vector<ChatMessage> messages, std::vector<std::string> fragments) {
    expect_error(ErrorCode::kRequest, fragments, [&] { format->render(messages, true); });
  };
  refused({}, {"no messages"});
  refused({{"tool", "x"}}, {"role 'tool' is not one of system, user, assistant"});
  refused({{"system", "x"}}, {"no message beside the system prompt"});
  refused({{"assistant", "x"}}, {"take turns"});
  refused({{"user", "x"}, {"user", "y"}}, {"take turns"});
  refused({{"user", "x"}, {"assistant", "y"}}, {"an answer follows a user's message"});
  const auto tokenizer = parse_hf_tokenizer(write_json(shape_of("llama2")), "llama2");
  expect_error(ErrorCode::kRequest,
               {"m: the chatml chat format needs the special token '<|im_end|>'"},
               [&] { check_chat_tokens(*chat_format("chatml", {}), *tokenizer, "m"); });
}

}  // namespace
}  // namespace ashlar
