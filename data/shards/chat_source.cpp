#include "data/shards/chat_source.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/io/json.h"
#include "data/shards/documents.h"

namespace ashlar {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 28;  // of a conversation

bool blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

ChatMessage read_message(const Node& node, const std::string& where) {
  const Node *role = node.is_map() ? node.find("role") : nullptr,
             *content = node.is_map() ? node.find("content") : nullptr;
  const bool good =
      role != nullptr && content != nullptr && role->is_string() && content->is_string();
  require(good, ErrorCode::kData, "{}: a message is an object with the strings role and content",
          where);
  ChatMessage message{role->as_string(), content->as_string()};
  require(message.role != "assistant" || !blank(message.content), ErrorCode::kData,
          "{}: an answer is empty", where);
  return message;
}

std::vector<ChatMessage> read_messages(const std::string& line, const std::string& where) {
  const Node row = parse_json(line, where);
  const Node* list = row.is_map() ? row.find("messages") : nullptr;
  require(list != nullptr && list->is_list(), ErrorCode::kData,
          "{}: expected an object with a list under \"messages\"", where);
  std::vector<ChatMessage> out;
  bool answered = false;
  for (const Node& node : list->as_list()) {
    out.push_back(read_message(node, where));
    answered = answered || out.back().role == "assistant";
  }
  require(answered, ErrorCode::kData, "{}: no message of the assistant to learn from", where);
  return out;
}

}  // namespace

ChatExample encode_chat(std::span<const ChatMessage> messages, const ChatFormat& format,
                        const Tokenizer& tokenizer) {
  const std::vector<TextPiece> pieces = format.render(messages, false);
  const std::span<const TextPiece> all = pieces;
  ChatExample out;
  // Parts that begin with an answer, apart from the first: an answer ends in a special token, at
  // which encoding is cut by itself, and what strips white space behind it must see it.
  for (size_t begin = 0; begin < all.size();) {
    size_t written = begin, end;
    while (written < all.size() && all[written].answer) ++written;
    for (end = written; end < all.size() && !all[end].answer;) ++end;
    const auto encode = [&](size_t last) {
      return tokenizer.encode_pieces(all.subspan(begin, last - begin), begin == 0);
    };
    const std::vector<int32_t> ids = encode(end), answer = encode(written);
    ASHLAR_CHECK(answer.size() <= ids.size() &&
                 std::equal(answer.begin(), answer.end(), ids.begin()));
    out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
    out.answer.resize(out.tokens.size() - ids.size() + answer.size(), 1);
    out.answer.resize(out.tokens.size(), 0);
    begin = end;
  }
  return out;
}

std::vector<ChatExample> read_chats(const std::filesystem::path& path, const ChatFormat& format,
                                    const Tokenizer& tokenizer) {
  const InputFile file = list_inputs({path}).at(0);
  require(file.lines, ErrorCode::kRequest, "{}: conversations are read from .jsonl", path.string());
  RecordReader reader(file, kMostBytes, false);
  std::vector<ChatExample> out;
  for (Record record; reader.next(record);) {
    const std::string where = place_of(file, record.line);
    const std::vector<ChatMessage> messages = read_messages(record.bytes, where);
    try {
      out.push_back(encode_chat(messages, format, tokenizer));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInternal) throw;
      fail(ErrorCode::kData, "{}: {}", where, error.what());
    }
  }
  require(!out.empty(), ErrorCode::kData, "{}: holds no conversation", path.string());
  return out;
}

ChatSource::ChatSource(std::vector<ChatExample> examples, int64_t context, const Options& options,
                       const std::string& where)
    : context_(context), options_(options) {
  ASHLAR_CHECK(context > 0 && (options.marker || !options.pack));
  const auto all = static_cast<int64_t>(examples.size());
  prepare(std::move(examples));
  require(!examples_.empty(), ErrorCode::kRequest,
          "{}: none of its {} conversations has an answer within a context of {}", where, all,
          context);
  pack();
  order_ = Permutation(static_cast<uint64_t>(windows()), options.seed);
}

// Row t of a conversation is given token t and asked for token t + 1.
int64_t ChatSource::rows_of(const ChatExample& example) {
  return static_cast<int64_t>(example.tokens.size()) - 1;
}

void ChatSource::prepare(std::vector<ChatExample> examples) {
  for (ChatExample& example : examples) {
    ASHLAR_CHECK(example.tokens.size() == example.answer.size() && !example.tokens.empty());
    if (!options_.answers_only) example.answer.assign(example.tokens.size(), 1);
    if (options_.marker && example.tokens.front() != options_.eos) {
      example.tokens.insert(example.tokens.begin(), options_.eos);
      example.answer.insert(example.answer.begin(), 0);
    }
    example.answer.front() = 0;  // nothing stands before it
    const int64_t extra = rows_of(example) - context_;
    if (extra > 0) {
      example.tokens.resize(example.tokens.size() - static_cast<size_t>(extra));
      example.answer.resize(example.tokens.size());
    }
    const bool weighs =
        std::find(example.answer.begin(), example.answer.end(), 1) != example.answer.end();
    if (!weighs || (extra > 0 && options_.too_long == TooLong::kSkip)) {
      ++counts_.left_out;
      continue;
    }
    ++counts_.conversations;
    counts_.cut += extra > 0 ? 1 : 0;
    counts_.tokens += static_cast<int64_t>(example.tokens.size());
    examples_.push_back(std::move(example));
  }
}

// In the order of the file; a sample ends before the first conversation that does not fit into it.
void ChatSource::pack() {
  int64_t used = 0;
  for (size_t i = 0; i < examples_.size(); ++i) {
    const int64_t rows = rows_of(examples_[i]);
    if (i == 0 || !options_.pack || used + rows > context_) {
      first_.push_back(i);
      used = 0;
    }
    used += rows;
  }
  first_.push_back(examples_.size());
}

Batch ChatSource::batch(std::span<const int64_t> samples) const {
  Batch out(samples, context_);
  std::fill(out.tokens.begin(), out.tokens.end(), options_.eos);
  std::fill(out.targets.begin(), out.targets.end(), options_.eos);
  const auto length = static_cast<size_t>(context_);
  for (size_t row = 0; row < samples.size(); ++row) {
    ASHLAR_CHECK_GE(samples[row], 0);
    auto sample = static_cast<uint64_t>(samples[row]);
    const auto n = static_cast<uint64_t>(windows());
    if (options_.shuffled) sample = order_(sample / n, sample % n);
    ASHLAR_CHECK_LT(sample, n);
    size_t at = row * length;
    const size_t end = at + length;
    int32_t segment = 0;
    for (size_t i = first_[sample]; i < first_[sample + 1]; ++i, ++segment) {
      const ChatExample& example = examples_[i];
      const size_t last = at + static_cast<size_t>(rows_of(example));
      ASHLAR_CHECK_LE(last, end);
      for (size_t t = 0; at < last; ++t, ++at) {
        out.tokens[at] = example.tokens[t];
        out.segment_ids[at] = segment;
        out.targets[at] = example.tokens[t + 1];
        out.loss_weight[at] = static_cast<float>(example.answer[t + 1]);
      }
    }
    std::fill(out.segment_ids.begin() + static_cast<std::ptrdiff_t>(at),
              out.segment_ids.begin() + static_cast<std::ptrdiff_t>(end), segment);
  }
  return out;
}

}  // namespace ashlar
