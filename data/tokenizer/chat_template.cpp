#include "data/tokenizer/chat_template.h"

#include <fmt/chrono.h>
#include <fmt/ranges.h>

#include <ctime>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/gguf.h"
#include "core/io/json.h"
#include "data/tokenizer/chat_formats.h"

// The formats follow the chat_template of the published tokenizer_config.json files:
// HuggingFaceTB/SmolLM2, Qwen/Qwen2.5 and Qwen3, meta-llama/Llama-2 and Llama-3.x, mistralai/
// Mistral-7B-Instruct-v0.1 to v0.3 and Mistral-Nemo, HuggingFaceH4/zephyr, microsoft/Phi-3.

namespace ashlar {
namespace {

namespace fs = std::filesystem;

/// The text of a Jinja template, searched as written and with \n taken for a line break.
class Jinja {
 public:
  explicit Jinja(const std::string& text) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (text.compare(i, 2, "\\n") == 0) {
        text_ += '\n';
        ++i;
      } else {
        text_ += text[i];
      }
    }
  }
  bool has(const std::string& what) const { return text_.find(what) != std::string::npos; }
  /// The same between either kind of quotes: "what" and 'what'; `end` only closes them.
  bool has_literal(const std::string& what) const {
    return has("\"" + what + "\"") || has("'" + what + "'");
  }
  bool has_literal_end(const std::string& what) const {
    return has(what + "\"") || has(what + "'");
  }
  /// The first text between `open` and `close` that is all literal, or "".
  std::string literal_between(const std::string& open, const std::string& close) const {
    for (size_t at = text_.find(open); at != std::string::npos; at = text_.find(open, at + 1)) {
      const size_t begin = at + open.size(), end = text_.find(close, begin);
      if (end == std::string::npos) break;
      const std::string between = text_.substr(begin, end - begin);
      if (!between.empty() && between.find_first_of("'\"{}") == std::string::npos) return between;
    }
    return {};
  }

 private:
  std::string text_;
};

// Assigning one-character literals draws a false -Wrestrict from GCC 12.
const std::string kBlank(1, ' ');
const std::string kLine(1, '\n');

TurnStyle chatml() {
  TurnStyle style;
  style.name = "chatml";
  style.open = "<|im_start|>";
  style.after_header = kLine;
  style.end = "<|im_end|>";
  style.after_end = kLine;
  return style;
}

TurnStyle llama3(const ChatContext& context) {
  TurnStyle style;
  style.name = "llama3";
  style.open = "<|start_header_id|>";
  style.close = "<|end_header_id|>";
  style.after_header = "\n\n";
  style.end = "<|eot_id|>";
  style.bos = context.bos;
  style.trim = true;
  return style;
}

TurnStyle role_tokens(const std::string& name, const std::string& end) {
  TurnStyle style;
  style.name = name;
  style.role_is_token = true;
  style.after_header = kLine;
  style.end = end;
  style.after_end = kLine;
  return style;
}

InstructStyle llama2(const ChatContext& context) {
  InstructStyle style;
  style.name = "llama2";
  style.bos = context.bos;
  style.eos = context.eos;
  style.bos_each_turn = true;
  style.after_open = style.before_close = style.before_answer = style.after_answer = kBlank;
  style.system_open = "<<SYS>>\n";
  style.system_close = "\n<</SYS>>\n\n";
  style.trim_user = style.trim_answer = true;
  return style;
}

/// Mistral's spacing: v1 "[INST] … [/INST]", v3 "[INST] …[/INST]", tekken "[INST]…[/INST]".
InstructStyle mistral(const std::string& name, const ChatContext& context) {
  InstructStyle style;
  style.name = name;
  style.bos = context.bos;
  style.eos = context.eos;
  style.system = InstructStyle::System::kLast;
  if (name != "mistral-tekken") style.after_open = style.before_answer = kBlank;
  if (name == "mistral-v1") {
    style.before_open = style.before_close = kBlank;
    style.system = InstructStyle::System::kFirst;
  }
  style.trim_answer = name == "mistral-v3";
  return style;
}

std::unique_ptr<ChatFormat> recognise_chatml(const Jinja& jinja, const ChatContext& context) {
  // Structure beyond plain ChatML: Phi-4's separator, SmolLM3's dates and modes.
  for (const char* foreign : {"<|im_sep|>", "strftime_now", "reasoning_mode"}) {
    if (jinja.has(foreign)) return nullptr;
  }
  TurnStyle style = chatml();
  style.thinking = jinja.has("last_query_index") && jinja.has("</think>");
  if (!style.thinking && (jinja.has("|trim") || jinja.has("| trim") || jinja.has(".strip()"))) {
    return nullptr;
  }
  if (jinja.has_literal_end("<|im_start|>assistant\n<think>\n")) style.answer = "<think>\n";
  style.default_system = jinja.literal_between("<|im_start|>system\n", "<|im_end|>");
  if (jinja.has("bos_token")) style.bos = context.bos;
  return make_turn_format(std::move(style));
}

std::unique_ptr<ChatFormat> recognise_llama3(const Jinja& jinja, const ChatContext& context) {
  TurnStyle style = llama3(context);
  if (!jinja.has("bos_token")) style.bos.clear();
  if (jinja.has("Cutting Knowledge Date: December 2023")) {
    const std::string date = jinja.has("strftime_now") ? context.date : "26 Jul 2024";
    style.system_prefix = "Cutting Knowledge Date: December 2023\nToday Date: " + date + "\n\n";
  }
  return make_turn_format(std::move(style));
}

std::unique_ptr<ChatFormat> recognise_instruct(const Jinja& jinja, const ChatContext& context) {
  if (jinja.has("[SYSTEM_PROMPT]")) return nullptr;  // Mistral v7
  if (jinja.has("<<SYS>>")) return make_instruct_format(llama2(context));
  if (jinja.has_literal(" [INST] ")) return make_instruct_format(mistral("mistral-v1", context));
  InstructStyle style;
  if (jinja.has_literal("[INST] ") && jinja.has_literal(" [/INST]")) {  // the first v0.1 and v0.2
    style = mistral("mistral-v1", context);
    style.before_open.clear();
    style.before_answer.clear();
    style.system = InstructStyle::System::kNone;
    if (jinja.has("eos_token + ' '") || jinja.has("eos_token + \" \"")) style.after_eos = kBlank;
  } else if (jinja.has_literal("[INST] ") && jinja.has_literal("[/INST]")) {
    style = mistral("mistral-v3", context);
    style.trim_answer = jinja.has("|trim") || jinja.has("| trim");
  } else if (jinja.has_literal("[INST]") && jinja.has_literal("[/INST]")) {
    style = mistral("mistral-tekken", context);
    style.trim_answer = jinja.has("|trim") || jinja.has("| trim");
  } else {
    return nullptr;
  }
  return make_instruct_format(std::move(style));
}

std::unique_ptr<ChatFormat> recognise_role_tokens(const Jinja& jinja, const ChatContext& context) {
  if (jinja.has_literal_end("<|end|>\n") && jinja.has("<|user|>\n")) {
    TurnStyle style = role_tokens("phi3", "<|end|>");
    if (jinja.has("bos_token")) style.bos = context.bos;
    if (jinja.has("{% else %}{{ eos_token }}")) style.final_token = context.eos;
    return make_turn_format(std::move(style));
  }
  if (jinja.has("<|user|>\n") && jinja.has("eos_token") && !jinja.has("<|end|>")) {
    return make_turn_format(role_tokens("zephyr", context.eos));
  }
  return nullptr;
}

constexpr std::string_view kNames[] = {"chatml",     "llama2",         "llama3", "mistral-v1",
                                       "mistral-v3", "mistral-tekken", "phi3",   "zephyr"};

}  // namespace

ChatContext chat_context(const Tokenizer& tokenizer) {
  ChatContext context;
  const auto text = [&](std::optional<int32_t> id) {
    return id ? tokenizer.token_bytes(*id) : std::string();
  };
  context.bos = text(tokenizer.bos_id());
  context.eos = text(tokenizer.eos_id());
  context.date = fmt::format("{:%d %b %Y}", fmt::localtime(std::time(nullptr)));
  return context;
}

std::unique_ptr<ChatFormat> recognise_chat_format(const std::string& text,
                                                  const ChatContext& context,
                                                  const std::string& where) {
  const Jinja jinja(text);
  std::unique_ptr<ChatFormat> format;
  if (jinja.has("<|im_start|>") && jinja.has("<|im_end|>")) {
    format = recognise_chatml(jinja, context);
  } else if (jinja.has("<|start_header_id|>") && jinja.has("<|eot_id|>")) {
    format = recognise_llama3(jinja, context);
  } else if (jinja.has("[INST]")) {
    format = recognise_instruct(jinja, context);
  } else if (jinja.has("<|user|>") && jinja.has("<|assistant|>")) {
    format = recognise_role_tokens(jinja, context);
  }
  require(format != nullptr, ErrorCode::kRequest,
          "{}: the chat template is of no known family; name the one to use with --chat-template: "
          "{}",
          where, fmt::join(kNames, ", "));
  return format;
}

std::unique_ptr<ChatFormat> chat_format(const std::string& name, const ChatContext& context) {
  if (name == "chatml") return make_turn_format(chatml());
  if (name == "llama2") return make_instruct_format(llama2(context));
  if (name == "llama3") return make_turn_format(llama3(context));
  if (name.starts_with("mistral-")) {
    for (const std::string_view known : kNames) {
      if (name == known) return make_instruct_format(mistral(name, context));
    }
  }
  if (name == "phi3") return make_turn_format(role_tokens("phi3", "<|end|>"));
  if (name == "zephyr") return make_turn_format(role_tokens("zephyr", context.eos));
  fail(ErrorCode::kRequest, "--chat-template: '{}' is not one of {}", name,
       fmt::join(kNames, ", "));
}

std::span<const std::string_view> chat_format_names() { return kNames; }

std::string read_chat_template(const fs::path& path) {
  if (fs::is_regular_file(path) && is_gguf(path)) {
    const GgufFile file(path);
    const Node* text = file.metadata().find("tokenizer.chat_template");
    return text != nullptr && text->is_string() ? text->as_string() : std::string();
  }
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  if (fs::is_regular_file(folder / "chat_template.jinja")) {
    return read_file(folder / "chat_template.jinja");
  }
  if (!fs::is_regular_file(folder / "tokenizer_config.json")) return {};
  const Node config = load_json(folder / "tokenizer_config.json");
  const Node* node = config.find("chat_template");
  if (node == nullptr || node->is_null()) return {};
  if (node->is_string()) return node->as_string();
  // Several by name, of which "default" is the one for chatting.
  for (const Node& entry : node->as_list()) {
    const Node *name = entry.find("name"), *text = entry.find("template");
    if (name != nullptr && name->is_string() && name->as_string() == "default" && text != nullptr) {
      return text->as_string();
    }
  }
  return {};
}

void check_chat_tokens(const ChatFormat& format, const Tokenizer& tokenizer,
                       const std::string& where) {
  for (const std::string& name : format.required_tokens()) {
    const std::optional<int32_t> id = name.empty() ? std::nullopt : tokenizer.find_token(name);
    require(id.has_value() && tokenizer.is_special(*id), ErrorCode::kRequest,
            "{}: the {} chat format needs the special token '{}', which the vocabulary lacks",
            where, format.name(), name);
  }
}

}  // namespace ashlar
