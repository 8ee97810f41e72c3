#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace ashlar {

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// What published templates take from outside.
struct ChatContext {
  std::string bos = "<s>", eos = "</s>";  ///< written forms; bos may be empty
  std::string date;                       ///< "26 Jul 2024", for templates that tell today's date
};

/// BOS and EOS of `tokenizer` and today's date.
ChatContext chat_context(const Tokenizer& tokenizer);

/// How a family of models writes a conversation. Rendering gives the text that the family's
/// published Jinja template gives, in pieces: only structure is marked special, so that nothing
/// written in a message can become structure (Tokenizer::encode_pieces).
class ChatFormat {
 public:
  virtual ~ChatFormat() = default;

  virtual std::string name() const = 0;
  /// A whole conversation; with `answer` it ends where the assistant's next answer begins. Throws
  /// Error(kRequest) for an unknown role or an order that the family cannot say.
  virtual std::vector<TextPiece> render(std::span<const ChatMessage> messages,
                                        bool answer) const = 0;
  /// What follows an answer that was generated after render(..., true): its end, the user's next
  /// message, and the beginning of the next answer.
  virtual std::vector<TextPiece> next_turn(const std::string& user) const = 0;
  /// Special tokens that end an answer.
  virtual std::vector<std::string> stops() const = 0;
  /// Special tokens without which the format means nothing; other marks may be plain text.
  virtual std::vector<std::string> required_tokens() const = 0;
  /// The system prompt of a conversation without one.
  virtual std::string default_system() const { return {}; }
};

/// The format that the Jinja text of a model's chat template describes: ChatML (SmolLM2, Qwen2.5
/// and Qwen3 with their system prompts and thinking), Llama 2, Llama 3 (also 3.1, 3.2, 3.3),
/// Mistral (v1, v3, tekken), Zephyr (TinyLlama too), Phi-3. No Jinja is run: a template is
/// recognised by its structure, and tools, images and documents have no counterpart here. Throws
/// Error(kRequest) naming `where` and the known formats for any other.
std::unique_ptr<ChatFormat> recognise_chat_format(const std::string& jinja,
                                                  const ChatContext& context,
                                                  const std::string& where);

/// A format by name, for models that bring no template. Throws Error(kRequest) naming the known.
std::unique_ptr<ChatFormat> chat_format(const std::string& name, const ChatContext& context);

/// The names that chat_format knows.
std::span<const std::string_view> chat_format_names();

/// The Jinja text of the chat template that a model folder (`chat_template.jinja`, or the key of
/// `tokenizer_config.json`), a GGUF file or a tokenizer's file (by the folder it lies in) comes
/// with; "" when it has none. Throws Error(kData) for damaged files.
std::string read_chat_template(const std::filesystem::path& path);

/// Throws Error(kRequest) naming `where` when `tokenizer` lacks a special token the format needs.
void check_chat_tokens(const ChatFormat& format, const Tokenizer& tokenizer,
                       const std::string& where);

}  // namespace ashlar
