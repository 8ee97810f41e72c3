#include "train/chat_data.h"

#include <spdlog/spdlog.h>

#include "core/base/error.h"
#include "data/shards/chat_source.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

class ChatData final : public TrainingData {
 public:
  ChatData(const ChatDataConfig& chat, const TrainConfig& config, uint64_t seed, bool training)
      : chat_(chat),
        tokenizer_(load_tokenizer(chat.tokenizer)),
        template_(chat.format.empty() ? read_chat_template(chat.tokenizer) : std::string()) {
    const std::string where = chat.tokenizer.string();
    const std::optional<int32_t> eos =
        config.data.eos_id ? config.data.eos_id : tokenizer_->eos_id();
    require(eos.has_value(), ErrorCode::kRequest, "{}: names no EOS token; say it with data.eos_id",
            where);
    eos_ = *eos;
    const ChatContext context = chat_context(*tokenizer_);
    require(!template_.empty() || !chat.format.empty(), ErrorCode::kRequest,
            "{}: comes with no chat template; name one with the key template, such as chatml",
            where);
    const auto format = chat.format.empty() ? recognise_chat_format(template_, context, where)
                                            : chat_format(chat.format, context);
    check_chat_tokens(*format, *tokenizer_, where);
    ChatSource::Options options;
    options.seed = seed;
    options.shuffled = training;
    options.answers_only = chat.answers_only;
    options.pack = chat.pack;
    options.too_long = chat.skip_long ? ChatSource::TooLong::kSkip : ChatSource::TooLong::kCut;
    options.eos = eos_;
    options.marker = !config.model.block.has_value();
    source_ = std::make_unique<ChatSource>(read_chats(chat.file, *format, *tokenizer_),
                                           config.context, options, chat.file.string());
    warn(config.context);
  }

  const SampleSource& samples() const override { return *source_; }
  std::string name() const override { return chat_.file.string(); }
  std::string size() const override {
    return fmt::format("{} conversations, {} tokens", source_->counts().conversations,
                       source_->counts().tokens);
  }
  int64_t eos_id() const override { return eos_; }
  std::optional<int64_t> vocab_size() const override { return tokenizer_->vocab_size(); }
  std::string vocabulary() const override { return tokenizer_->hash(); }
  fs::path tokenizer() const override { return chat_.tokenizer; }
  std::string tokenizer_json() const override { return tokenizer_->json(); }
  std::string chat_template() const override { return template_; }
  std::optional<double> bytes_per_token() const override { return std::nullopt; }

 private:
  void warn(int64_t context) const {
    const ChatSource::Counts& counts = source_->counts();
    if (counts.cut > 0) {
      spdlog::warn(
          "{}: {} of {} conversations are longer than the context of {} and cut at the end", name(),
          counts.cut, counts.conversations + counts.left_out, context);
    }
    if (counts.left_out > 0) {
      spdlog::warn("{}: {} of {} conversations are left out: {} within the context of {}", name(),
                   counts.left_out, counts.conversations + counts.left_out,
                   chat_.skip_long ? "not whole" : "no answer", context);
    }
  }

  ChatDataConfig chat_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string template_;
  int32_t eos_ = 0;
  std::unique_ptr<ChatSource> source_;
};

}  // namespace

std::unique_ptr<TrainingData> open_chat_data(const ChatDataConfig& chat, const TrainConfig& config,
                                             uint64_t seed, bool training) {
  if (chat.pack) {
    require(training, ErrorCode::kRequest,
            "data.validation.pack: validation looks at every conversation alone");
    require(!config.model.block.has_value(), ErrorCode::kRequest,
            "data.train.pack: a block would hold tokens of two conversations; packing is for "
            "decoders");
    require(config.document_mask, ErrorCode::kRequest,
            "data.train.pack: needs train.document_mask: true, or conversations attend to those "
            "before them");
  }
  return std::make_unique<ChatData>(chat, config, seed, training);
}

}  // namespace ashlar
