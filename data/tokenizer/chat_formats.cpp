#include "data/tokenizer/chat_formats.h"

#include "core/base/error.h"
#include "data/tokenizer/text.h"

namespace ashlar {
namespace {

class Pieces {
 public:
  Pieces& text(const std::string& text) {
    if (!text.empty()) pieces_.push_back({text, false, answer_});
    return *this;
  }
  Pieces& token(const std::string& name) {
    if (!name.empty()) pieces_.push_back({name, true, answer_});
    return *this;
  }
  /// What follows is the assistant's, or is not.
  Pieces& answer(bool on) {
    answer_ = on;
    return *this;
  }
  std::vector<TextPiece> take() { return std::move(pieces_); }

 private:
  std::vector<TextPiece> pieces_;
  bool answer_ = false;
};

/// Python's str.strip(): white space and the four ASCII separators.
std::string strip(const std::string& text) {
  const auto blank = [&](size_t at) {
    const int32_t c = utf8_at(text, at).code_point;
    return is_white_space(c) || (c >= 0x1c && c <= 0x1f);
  };
  size_t begin = 0, end = text.size();
  while (begin < end && blank(begin)) begin += static_cast<size_t>(utf8_at(text, begin).length);
  while (end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<uint8_t>(text[last]) & 0xc0) == 0x80) --last;
    if (!blank(last)) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::string strip_lines(std::string text) {
  text.erase(0, std::min(text.find_first_not_of('\n'), text.size()));
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

void check_roles(std::span<const ChatMessage> messages) {
  require(!messages.empty(), ErrorCode::kRequest, "chat: no messages");
  for (const ChatMessage& message : messages) {
    require(message.role == "system" || message.role == "user" || message.role == "assistant",
            ErrorCode::kRequest, "chat: role '{}' is not one of system, user, assistant",
            message.role);
  }
}

class TurnFormat : public ChatFormat {
 public:
  explicit TurnFormat(TurnStyle style) : s_(std::move(style)) {}

  std::string name() const override { return s_.name; }
  std::string default_system() const override { return s_.default_system; }
  std::vector<std::string> stops() const override { return {s_.end}; }
  std::vector<std::string> required_tokens() const override {
    std::vector<std::string> names = {s_.end};
    for (const std::string& name : {s_.open, s_.close}) {
      if (!name.empty()) names.push_back(name);
    }
    return names;
  }

  std::vector<TextPiece> render(std::span<const ChatMessage> messages, bool answer) const override {
    check_roles(messages);
    Pieces out;
    out.token(s_.bos);
    if (messages[0].role != "system") {
      if (!s_.default_system.empty()) message({"system", s_.default_system}, out);
      if (!s_.system_prefix.empty()) message({"system", ""}, out);
    }
    size_t last_user = messages.size() - 1;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role == "user") last_user = i;
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      if (s_.thinking && messages[i].role == "assistant") {
        message(
            {"assistant", thought(messages[i].content, i > last_user, i + 1 == messages.size())},
            out);
      } else {
        message(messages[i], out, i == 0);
      }
    }
    if (answer) {
      header("assistant", out);
      out.text(s_.answer);
    } else {
      out.token(s_.final_token);
    }
    return out.take();
  }

  std::vector<TextPiece> next_turn(const std::string& user) const override {
    Pieces out;
    out.token(s_.end).text(s_.after_end);
    message({"user", user}, out);
    header("assistant", out);
    out.text(s_.answer);
    return out.take();
  }

 private:
  void header(const std::string& role, Pieces& out) const {
    if (s_.role_is_token) {
      out.token("<|" + role + "|>");
    } else {
      out.token(s_.open).text(role).token(s_.close);
    }
    out.text(s_.after_header);
  }

  void message(const ChatMessage& message, Pieces& out, bool first = true) const {
    header(message.role, out);
    if (message.role == "system" && first) out.text(s_.system_prefix);
    out.answer(message.role == "assistant");
    out.text(s_.trim ? strip(message.content) : message.content).token(s_.end);
    out.answer(false).text(s_.after_end);
  }

  /// Qwen3: reasoning is shown again only behind the last question.
  static std::string thought(const std::string& content, bool recent, bool last) {
    const std::string close = "</think>", open = "<think>";
    std::string reasoning, rest = content;
    if (const size_t at = content.find(close); at != std::string::npos) {
      reasoning = content.substr(0, at);
      reasoning.erase(reasoning.find_last_not_of('\n') + 1);
      if (const size_t begin = reasoning.rfind(open); begin != std::string::npos) {
        reasoning.erase(0, begin + open.size());
      }
      reasoning = strip_lines(reasoning);
      rest = content.substr(content.rfind(close) + close.size());
      rest.erase(0, std::min(rest.find_first_not_of('\n'), rest.size()));
    }
    if (!recent || (!last && reasoning.empty())) return rest;
    rest.erase(0, std::min(rest.find_first_not_of('\n'), rest.size()));
    return open + "\n" + reasoning + "\n" + close + "\n\n" + rest;
  }

  TurnStyle s_;
};

class InstructFormat : public ChatFormat {
 public:
  explicit InstructFormat(InstructStyle style) : s_(std::move(style)) {}

  std::string name() const override { return s_.name; }
  std::vector<std::string> stops() const override { return {s_.eos}; }
  std::vector<std::string> required_tokens() const override { return {s_.eos}; }

  std::vector<TextPiece> render(std::span<const ChatMessage> messages, bool answer) const override {
    check_roles(messages);
    std::optional<std::string> system;
    if (messages[0].role == "system") {
      require(s_.system != InstructStyle::System::kNone, ErrorCode::kRequest,
              "chat: the {} format has no system prompt", s_.name);
      system = messages[0].content;
      messages = messages.subspan(1);
    }
    require(!messages.empty(), ErrorCode::kRequest, "chat: no message beside the system prompt");
    Pieces out;
    if (!s_.bos_each_turn) out.token(s_.bos);
    for (size_t i = 0; i < messages.size(); ++i) {
      const bool user = i % 2 == 0;
      require(messages[i].role == (user ? "user" : "assistant"), ErrorCode::kRequest,
              "chat: in the {} format user and assistant take turns, beginning with the user",
              s_.name);
      const bool carries =
          s_.system == InstructStyle::System::kFirst ? i == 0 : i + 1 == messages.size();
      if (user) {
        question(messages[i].content, carries ? system : std::nullopt, out);
      } else {
        out.answer(true).text(s_.before_answer);
        out.text(s_.trim_answer ? strip(messages[i].content) : messages[i].content);
        out.text(s_.after_answer).token(s_.eos).answer(false).text(s_.after_eos);
      }
    }
    require(!answer || messages.back().role == "user", ErrorCode::kRequest,
            "chat: in the {} format an answer follows a user's message", s_.name);
    return out.take();
  }

  std::vector<TextPiece> next_turn(const std::string& user) const override {
    Pieces out;
    end(out);
    question(user, std::nullopt, out);
    return out.take();
  }

 private:
  void question(const std::string& content, const std::optional<std::string>& system,
                Pieces& out) const {
    if (s_.bos_each_turn) out.token(s_.bos);
    out.text(s_.before_open).token("[INST]").text(s_.after_open);
    std::string all = content;
    if (system) all = s_.system_open + *system + s_.system_close + content;
    out.text(s_.trim_user ? strip(all) : all).text(s_.before_close).token("[/INST]");
  }
  void end(Pieces& out) const { out.text(s_.after_answer).token(s_.eos).text(s_.after_eos); }

  InstructStyle s_;
};

}  // namespace

std::unique_ptr<ChatFormat> make_turn_format(TurnStyle style) {
  return std::make_unique<TurnFormat>(std::move(style));
}

std::unique_ptr<ChatFormat> make_instruct_format(InstructStyle style) {
  return std::make_unique<InstructFormat>(std::move(style));
}

}  // namespace ashlar
