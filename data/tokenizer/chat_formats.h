#pragma once

#include <string>
#include <vector>

#include "data/tokenizer/chat_template.h"

// Private to data/tokenizer: the two shapes that published chat formats have.

namespace ashlar {

/// Every message stands alone: header with the role, content, end.
struct TurnStyle {
  std::string name;
  std::string open, close;     ///< special tokens around the role; with close empty: open + role
  bool role_is_token = false;  ///< the header is the special token <|role|>
  std::string after_header;    ///< text before the content
  std::string end;             ///< special token after the content
  std::string after_end;       ///< text behind it
  std::string answer;          ///< text behind the header of an answer to come
  std::string bos;             ///< special token before everything, or empty
  std::string final_token;     ///< special token behind a conversation without an answer to come
  std::string default_system;
  std::string system_prefix;  ///< before every system prompt, which is then always there
  bool trim = false;          ///< contents lose white space at both ends
  bool thinking = false;      ///< Qwen3: earlier answers lose <think>…</think>
};
std::unique_ptr<ChatFormat> make_turn_format(TurnStyle style);

/// User and assistant alternate; user messages stand between [INST] and [/INST], the system prompt
/// inside one of them.
struct InstructStyle {
  enum class System { kNone, kFirst, kLast };  ///< which user message carries it
  std::string name;
  std::string bos, eos;
  bool bos_each_turn = false;
  std::string before_open;   ///< text before [INST]
  std::string after_open;    ///< text before the content
  std::string before_close;  ///< text behind the content
  std::string before_answer, after_answer, after_eos;
  std::string system_open, system_close = "\n\n";  ///< around the system prompt
  System system = System::kFirst;
  bool trim_user = false, trim_answer = false;
};
std::unique_ptr<ChatFormat> make_instruct_format(InstructStyle style);

}  // namespace ashlar
