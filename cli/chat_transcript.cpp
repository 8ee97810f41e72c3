// A conversation that outlives its process: what ChatSession remembers beside the cache.

#include "cli/chat_session.h"
#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar::cli {
namespace fs = std::filesystem;

std::string ChatSession::transcript() const {
  Node messages = Node::list(), tokens = Node::list();
  for (const ChatMessage& message : messages_) {
    messages.push(Node::Map{{"role", message.role}, {"content", message.content}});
  }
  for (const int32_t token : tokens_) tokens.push(static_cast<int64_t>(token));
  return write_json(Node::Map{{"chat_format", format_->name()},
                              {"answers", static_cast<int64_t>(answers_)},
                              {"messages", std::move(messages)},
                              {"tokens", std::move(tokens)},
                              {"unfed", static_cast<int64_t>(unfed_)}});
}

// Its tokens and those in the cache must be of one and the same conversation. Returns its format.
std::string ChatSession::read_transcript(const std::string& text, const Sequence& sequence) {
  const Node root = parse_json(text, "transcript");
  NodeReader reader(root);
  const std::string format = reader.text("chat_format");
  answers_ = static_cast<uint64_t>(reader.integer("answers", 0, INT64_MAX));
  for (const Node& message : reader.required("messages").as_list()) {
    NodeReader own(message);
    messages_.push_back({own.text("role"), own.text("content")});
    own.finish();
  }
  for (const Node& token : reader.required("tokens").as_list()) {
    const int64_t id = token.as_int();
    require(id >= 0 && id < engine_->spec().vocab_size, ErrorCode::kData,
            "token {} is outside the model's vocabulary", id);
    tokens_.push_back(static_cast<int32_t>(id));
  }
  unfed_ = static_cast<size_t>(reader.integer("unfed", 0, 1));
  reader.finish();
  const int64_t marker = !engine_->spec().block && needs_marker(tokens_) ? 1 : 0;
  require(unfed_ <= tokens_.size() &&
              marker + std::ssize(tokens_) - static_cast<int64_t>(unfed_) == sequence.length(),
          ErrorCode::kData, "its {} tokens are not those of a cache of {}", tokens_.size(),
          sequence.length());
  require(messages_.size() >= 2, ErrorCode::kData, "it holds {} messages", messages_.size());
  return format;
}

void ChatSession::restore() {
  const std::string what = file_.string();
  try {
    SavedChat saved = restore_chat(*engine_, origin_, cache_.policy, file_);
    std::string format;
    try {
      format = read_transcript(saved.transcript, *saved.sequence);
    } catch (const Error& error) {
      fail(ErrorCode::kData, "{}: {}", what, error.what());
    }
    require(format == format_->name(), ErrorCode::kRequest,
            "{}: holds a conversation in the chat format {}, this is {}: choose it with "
            "--chat-template, or name another file",
            what, format, format_->name());
    sequence_ = std::move(saved.sequence);
  } catch (...) {
    forget();
    file_.clear();  // it is not this conversation's
    throw;
  }
}

void ChatSession::keep_in(const fs::path& file, const std::string& weights) {
  ASHLAR_CHECK(!sequence_ && file_.empty());
  const fs::path folder = fs::absolute(file).parent_path();
  require(fs::is_directory(folder), ErrorCode::kRequest, "--session {}: {}: no such folder",
          file.string(), folder.string());
  file_ = file;
  origin_ = {weights, cache_.options, cache_.policy_options};
  if (!fs::exists(file)) return;
  restore();
  if (!settings_.system) return;
  const ChatMessage& first = messages_.front();
  const bool same = first.role == "system" &&
                    write_json(Node(first.content)) == write_json(Node(*settings_.system));
  if (same) return;
  forget();
  file_.clear();
  fail(ErrorCode::kRequest,
       "--system: the conversation in {} began with another one: leave it out, or name another "
       "file",
       file.string());
}

void ChatSession::save() const {
  if (file_.empty() || !sequence_) return;
  save_chat(*engine_, *sequence_, origin_, transcript(), file_);
}

}  // namespace ashlar::cli
