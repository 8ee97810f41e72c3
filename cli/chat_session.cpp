#include "cli/chat_session.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar::cli {
namespace {

/// What the tokenizer and the model say: the model knows which token begins and ends its texts,
/// which a tokenizer.json alone cannot always tell.
ChatContext context_of(const ModelData& model, const Tokenizer& tokenizer) {
  ChatContext context = chat_context(tokenizer);
  const auto text = [&](int64_t id) { return tokenizer.token_bytes(static_cast<int32_t>(id)); };
  if (model.start_token) context.bos = text(*model.start_token);
  const auto& stops = model.stop_tokens;
  const std::optional<int32_t> eos = tokenizer.eos_id();
  const bool known = eos && std::find(stops.begin(), stops.end(), *eos) != stops.end();
  if (!stops.empty() && !known) context.eos = text(stops.front());
  return context;
}

std::unique_ptr<ChatFormat> choose_format(const ModelData& model, const std::string& path,
                                          const std::string& name, const ChatContext& context) {
  if (!name.empty()) return chat_format(name, context);
  require(!model.chat_template.empty(), ErrorCode::kRequest,
          "{}: the model has no chat template: name one with --chat-template NAME, such as chatml",
          path);
  return recognise_chat_format(model.chat_template, context, path);
}

}  // namespace

ChatSession::ChatSession(const ModelData& model, const std::string& path,
                         const EngineArguments& engine, const std::string& template_name)
    : tokenizer_(model_tokenizer(model, path)),
      start_token_(model.start_token),
      stop_tokens_(model.stop_tokens) {
  format_ = choose_format(model, path, template_name, context_of(model, *tokenizer_));
  check_chat_tokens(*format_, *tokenizer_, path);
  for (const std::string& name : format_->stops()) {
    if (const auto id = tokenizer_->find_token(name)) stop_tokens_.push_back(*id);
  }
  cache_ = choose_cache(engine, model, model.spec.context_length);
  engine_ = std::make_unique<Engine>(model, engine.engine_options());
}

std::vector<int32_t> ChatSession::prompt_for(const std::string& user,
                                             std::optional<ChatMessage>& system) const {
  if (sequence_) {
    std::vector<int32_t> ids(tokens_.end() - static_cast<std::ptrdiff_t>(unfed_), tokens_.end());
    const std::vector<int32_t> turn = tokenizer_->encode_pieces(format_->next_turn(user), false);
    ids.insert(ids.end(), turn.begin(), turn.end());
    return ids;
  }
  std::vector<ChatMessage> messages;
  if (settings_.system) system = ChatMessage{"system", *settings_.system};
  if (system) messages.push_back(*system);
  messages.push_back({"user", user});
  return tokenizer_->encode_pieces(format_->render(messages, true));
}

bool ChatSession::needs_marker(const std::vector<int32_t>& prompt) const {
  // Some templates write the start token, some leave it to the tokenizer: it stands there once.
  const bool written = start_token_ && !prompt.empty() && prompt.front() == *start_token_;
  return start_token_ && !written;
}

ChatAnswer ChatSession::answer(const std::string& user,
                               const std::function<bool(const std::string&)>& on_text) {
  std::optional<ChatMessage> system;
  GenerateRequest request;
  request.prompt = prompt_for(user, system);
  request.max_tokens = settings_.max_tokens;
  request.sampling = settings_.sampling;
  request.sampling.seed += answers_;
  request.stop_tokens = stop_tokens_;
  ChatAnswer answer;
  answer.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const bool marker = !sequence_ && needs_marker(request.prompt);
  const int64_t used = sequence_ ? sequence_->length() : (marker ? 1 : 0);
  require(used + answer.prompt_tokens <= context_length(), ErrorCode::kResource,
          "the context of {} tokens is full: {} are used and this message needs {}; /reset begins "
          "a new conversation",
          context_length(), used, answer.prompt_tokens);
  if (!sequence_) sequence_ = engine_->start(cache_.options, cache_.policy, marker);
  StreamDecoder decoder(*tokenizer_);
  const auto emit = [&](const std::string& piece) {
    answer.text += piece;
    return on_text(piece);
  };
  try {
    answer.result = generate(*engine_, *sequence_, request,
                             [&](int32_t token) { return emit(decoder.push(token)); });
  } catch (...) {
    forget();  // what has been fed is not known
    if (!file_.empty() && std::filesystem::exists(file_)) restore();
    throw;
  }
  if (const std::string rest = decoder.finish(); !rest.empty()) emit(rest);
  // After a stop token everything picked has been fed; otherwise the last token has not.
  const std::vector<int32_t>& picked = answer.result.tokens;
  tokens_.resize(tokens_.size() - unfed_);  // the prompt begins with them
  tokens_.insert(tokens_.end(), request.prompt.begin(), request.prompt.end());
  tokens_.insert(tokens_.end(), picked.begin(), picked.end());
  unfed_ = answer.result.finish != "stop" && !picked.empty() ? 1 : 0;
  if (system) messages_.push_back(*system);
  messages_.push_back({"user", user});
  messages_.push_back({"assistant", answer.text});
  ++answers_;
  answer.context_tokens = sequence_->length();
  answer.kv_bytes = sequence_->kv_bytes();
  return answer;
}

void ChatSession::forget() {
  sequence_.reset();
  messages_.clear();
  tokens_.clear();
  unfed_ = 0;
}

void ChatSession::reset() {
  forget();
  if (file_.empty()) return;
  std::error_code error;
  std::filesystem::remove(file_, error);
  require(!error, ErrorCode::kIo, "{}: cannot be removed: {}", file_.string(), error.message());
}

}  // namespace ashlar::cli
