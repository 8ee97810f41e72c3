#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/model_options.h"
#include "data/tokenizer/chat_template.h"
#include "engine/decode/generate.h"
#include "engine/model/session.h"

namespace ashlar::cli {

/// What may change between two answers.
struct ChatSettings {
  SamplingOptions sampling;  ///< answer i draws with seed + i
  int64_t max_tokens = 1024;
  std::optional<std::string> system;  ///< unset: the format's own; counts from the next reset on
};

struct ChatAnswer {
  std::string text;
  GenerateResult result;
  int64_t prompt_tokens = 0;   ///< fed for this answer
  int64_t context_tokens = 0;  ///< of the conversation so far
  int64_t kv_bytes = 0;
};

/// A conversation held in one Sequence: every turn feeds only what is new, so that caches, codecs
/// and policies see one growing text. Answers stay as the tokens that were generated.
class ChatSession {
 public:
  /// `template_name` overrides the model's template unless empty. Throws Error(kRequest) naming
  /// `path` for a model without tokenizer or without a template that is known.
  ChatSession(const ModelData& model, const std::string& path, const EngineArguments& engine,
              const std::string& template_name);

  ChatSettings& settings() { return settings_; }
  const std::vector<ChatMessage>& messages() const { return messages_; }
  const ChatFormat& format() const { return *format_; }
  int64_t context_length() const { return engine_->spec().context_length; }

  /// Generates an answer; `on_text` gets it as it grows (valid UTF-8) and ends it by returning
  /// false. Throws Error(kResource) when the message does not fit the context any more; the
  /// conversation is then as before. Any other error ends the conversation, or takes it back to
  /// where it was saved last.
  ChatAnswer answer(const std::string& user,
                    const std::function<bool(const std::string&)>& on_text);
  /// Forgets the conversation; its file goes too.
  void reset();

  /// Keeps the conversation in `file` (docs/formats.md) from now on: goes on with the one it holds
  /// if it exists, with its cache as it was. Before the first message, after settings() are set.
  /// `weights`: the model's weights_sha256. Throws Error(kRequest) for a conversation of another
  /// model, cache, policy, chat format or system prompt, Error(kData) for a file that is damaged or
  /// no conversation, Error(kResource) without room; the file stays as it is then.
  void keep_in(const std::filesystem::path& file, const std::string& weights);
  /// Writes the file, whole or not at all; nothing to do where no file was named or nothing said.
  void save() const;
  /// Tokens the cache holds or held.
  int64_t context_tokens() const { return sequence_ ? sequence_->length() : 0; }

 private:
  std::string transcript() const;
  std::string read_transcript(const std::string& text, const Sequence& sequence);
  void restore();
  void forget();
  std::vector<int32_t> prompt_for(const std::string& user,
                                  std::optional<ChatMessage>& system) const;
  bool needs_marker(const std::vector<int32_t>& prompt) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatFormat> format_;
  std::unique_ptr<Engine> engine_;
  CacheChoice cache_;
  std::optional<int64_t> start_token_;
  std::vector<int64_t> stop_tokens_;
  ChatSettings settings_;
  std::vector<ChatMessage> messages_;
  std::unique_ptr<Sequence> sequence_;  ///< null before the first message
  std::vector<int32_t> tokens_;         ///< of all turns, without a marker in front
  size_t unfed_ = 0;                    ///< last ones that are not fed: an answer was cut short
  uint64_t answers_ = 0;
  std::filesystem::path file_;  ///< empty: the conversation is not kept
  SessionOrigin origin_;        ///< of what is in it
};

}  // namespace ashlar::cli
