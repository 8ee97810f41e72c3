#include "eval/text_items.h"

#include "core/base/error.h"
#include "core/io/sha256.h"

namespace ashlar {

FileTask::FileTask(std::string name, const std::filesystem::path& file, const TaskModel& model)
    : tokenizer_(model.tokenizer()),
      evicts_(model.evicts),
      name_(std::move(name)),
      context_length_(model.context_length) {
  note("file", file.string());
  note("file_sha256", sha256_file(file));
  note("tokenizer_sha256", tokenizer_.hash());
}

void FileTask::read_common(NodeReader& options) {
  const std::vector<std::string_view> names = {"refuse", "left"};
  const size_t choice = options.choice_or("truncate", 0, names);
  truncate_ = choice == 1;
  note("truncate", names[choice]);
}

void FileTask::finish() {
  int64_t cut = 0, first = -1, longest = 0;
  for (size_t item = 0; item < texts_.size(); ++item) {
    for (ScoreText& text : texts_[item]) {
      const int64_t n = std::ssize(text.tokens), over = n - context_length_;
      if (over <= 0) continue;
      ++cut;
      longest = std::max(longest, n);
      if (first < 0) first = static_cast<int64_t>(item);
      if (!truncate_) continue;
      require(over < text.scored, ErrorCode::kRequest,
              "item {}: what is scored has {} tokens, the model's context {}", item,
              n - text.scored, context_length_);
      text.tokens.erase(text.tokens.begin(), text.tokens.begin() + over);
      text.scored -= over;
      if (text.prompt > 0) text.prompt = text.scored;
    }
  }
  require(cut == 0 || truncate_, ErrorCode::kRequest,
          "{} texts are longer than the model's context of {} tokens, the first in item {}, the "
          "longest of {}: ',truncate=left' drops their beginnings",
          cut, context_length_, first, longest);
  note("truncated_texts", cut);
}

ScoreText FileTask::continuation(const Continuation& text) const {
  std::string context = text.context;
  const size_t end = context.find_last_not_of(" \t\n\r\f\v") + 1;
  std::string rest = context.substr(end);
  context.resize(end);
  if (rest.empty()) rest.push_back(' ');
  rest += text.continuation;
  ScoreText out;
  out.tokens = tokenizer_.encode(context + rest);
  out.scored = context.empty() ? 0 : std::ssize(tokenizer_.encode(context));
  require(out.scored < std::ssize(out.tokens), ErrorCode::kRequest,
          "item {}: this tokenizer joins the continuation to the context's last token", size());
  if (evicts_) out.prompt = out.scored;
  return out;
}

double log_likelihood(const TextScore& score) {
  double sum = 0;
  for (const TokenScore& token : score.tokens) sum += token.log_p;
  return sum;
}

bool greedy_match(const ScoreText& text, const TextScore& score) {
  for (size_t i = 0; i < score.tokens.size(); ++i) {
    if (score.tokens[i].best != text.tokens[static_cast<size_t>(text.scored) + i]) return false;
  }
  return true;
}

}  // namespace ashlar
